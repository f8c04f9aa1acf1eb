"""Training some entries of a parameter and no others, under anyone's loop.

A window is a parametrization (`torch.nn.utils.parametrize`): the module's parameter becomes one
that holds the trained entries alone, and what the forward reads is the whole tensor with these
entries written into it. The gradient of the whole is cut to the entries. So an optimiser, weight
decay, momentum, clipping and their state meet the entries only, and the others stay bit-equal
because nothing ever writes to them.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.hooks import RemovableHandle

from narrowtune.anatomy.region import Region


class _Use(NamedTuple):
    """What opening a window changed in one module besides the parameter."""

    order: tuple[str, ...]
    save: RemovableHandle
    load: RemovableHandle

    def undo(self, module: nn.Module) -> None:
        """Remove the hooks, and put the parameter where it was among the others."""
        self.save.remove()
        self.load.remove()
        for name in self.order:
            if name in module._parameters:
                module._parameters[name] = module._parameters.pop(name)


class Window(nn.Module):
    """The whole tensor behind a parameter of trained entries.

    Args:
        whole: The tensor; its memory is used, not copied.
        region: Which of its entries are trained.
    """

    whole: Tensor

    def __init__(self, whole: Tensor, region: Region) -> None:
        super().__init__()
        self.region = region
        # Not persistent: a state_dict holds the whole under its plain name instead.
        self.register_buffer("whole", whole.detach(), persistent=False)
        self.uses: list[_Use] = []
        self._seen: tuple[int, int, int] | None = None
        self._stepped = True

    def right_inverse(self, whole: Tensor) -> Tensor:
        """The trained entries of the whole, in memory of their own.

        Of a parameter that modules share, only the first of them still sees the whole.
        """
        if whole.shape != self.whole.shape:
            return whole
        return self.region.take(whole).clone(memory_format=torch.contiguous_format)

    def forward(self, entries: Tensor) -> Tensor:
        """The whole tensor, the current entries in it."""
        self.write(entries)
        whole: Tensor = _Whole.apply(entries, self.whole, self.region)  # type: ignore[no-untyped-call]
        return whole

    @torch.no_grad()
    def write(self, entries: Tensor) -> None:
        """Put the entries into the whole, if they may have changed since the last time."""
        now = (entries._version, entries.data_ptr(), self.whole.data_ptr())
        if now != self._seen:
            self.region.put(self.whole, entries)
        elif self._stepped:
            # An optimiser that writes past autograd (its own kernels, `.data`) leaves no version.
            # The write leaves none either: the values differ only if there was such a step.
            self.region.put(self.whole.data, entries.data)
        self._seen, self._stepped = now, False

    def gradient_came(self, entries: Tensor) -> None:
        """A backward pass reached the entries, so an optimiser may move them soon."""
        self._stepped = True


class _Whole(torch.autograd.Function):
    """The whole as it lies in memory, with the gradient going to the trained entries."""

    @staticmethod
    def forward(ctx: Any, entries: Tensor, whole: Tensor, region: Region) -> Tensor:
        ctx.region = region
        return whole.view_as(whole)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return ctx.region.take(gradients[0]).contiguous(), None, None


def open_window(model: nn.Module, name: str, region: Region) -> None:
    """Leave the entries in `region` as the only ones of a parameter that can be trained.

    Modules that share the parameter share the window.
    """
    path, _, leaf = name.rpartition(".")
    parameter = getattr(model.get_submodule(path), leaf)
    window = Window(parameter, region)
    for module, own in _owners(model, parameter):
        order = tuple(module._parameters)
        parametrize.register_parametrization(module, own, window, unsafe=True)
        window.uses.append(
            _Use(
                order,
                module.register_state_dict_post_hook(partial(_save_whole, own)),
                module.register_load_state_dict_pre_hook(partial(_load_whole, own)),
            )
        )
    parameter.register_post_accumulate_grad_hook(window.gradient_came)


def release(model: nn.Module) -> None:
    """Make every parameter whole again, with what was trained in it; windows are gone."""
    whole: dict[int, tuple[Tensor, Tensor]] = {}
    for _, module, leaf, window in list(_windows(model)):
        entries = _entries(module, leaf)
        window.write(entries)
        whole[id(entries)] = entries, window.whole
        parametrize.remove_parametrizations(module, leaf, leave_parametrized=False)
        window.uses.pop(0).undo(module)
    with torch.no_grad():
        for entries, values in whole.values():
            entries.set_(values)  # type: ignore[call-overload]


def plain_parameters(
    model: nn.Module, remove_duplicate: bool = True
) -> Iterator[tuple[str, Tensor]]:
    """Every parameter under its plain name and whole, windows looked through."""
    windows = {}
    for path, module, leaf, window in _windows(model):
        window.write(_entries(module, leaf))
        windows[f"{path}parametrizations.{leaf}.original"] = path + leaf, window.whole
    for name, parameter in model.named_parameters(remove_duplicate=remove_duplicate):
        yield windows.get(name, (name, parameter))


def plain_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every parameter and buffer under its plain name and whole, windows looked through.

    A tied tensor appears once, under the name its module reports first.
    """
    yield from plain_parameters(model)
    for name, buffer, _ in plain_buffers(model):
        yield name, buffer


def plain_buffers(model: nn.Module) -> Iterator[tuple[str, Tensor, bool]]:
    """Every buffer with its name and whether a checkpoint holds it; none of the windows' own."""
    for path, module in model.named_modules():
        if isinstance(module, Window):
            continue
        for leaf, buffer in module.named_buffers(recurse=False):
            # No public way to ask; torch's own state_dict reads the same attribute.
            persistent = leaf not in module._non_persistent_buffers_set
            yield f"{path}.{leaf}" if path else leaf, buffer, persistent


def _windows(model: nn.Module) -> Iterator[tuple[str, nn.Module, str, Window]]:
    """Each window with its module's path (dot included), its module and its parameter's name."""
    module: Any
    for path, module in model.named_modules():
        if parametrize.is_parametrized(module):
            for leaf, found in module.parametrizations.items():
                if isinstance(found[0], Window):
                    yield f"{path}." if path else "", module, leaf, found[0]


def _entries(module: Any, leaf: str) -> Tensor:
    entries: Tensor = module.parametrizations[leaf].original
    return entries


def _owners(model: nn.Module, parameter: nn.Parameter) -> list[tuple[Any, str]]:
    """Every module that holds the parameter, with its name there."""
    return [
        (module, leaf)
        for module in model.modules()
        for leaf, held in list(module.named_parameters(recurse=False, remove_duplicate=False))
        if held is parameter
    ]


def _save_whole(
    leaf: str, module: Any, state: dict[str, Any], prefix: str, metadata: dict[str, Any]
) -> None:
    """State-dict hook: the whole under its plain name instead of the entries."""
    window = module.parametrizations[leaf][0]
    window.write(state.pop(f"{prefix}parametrizations.{leaf}.original"))
    state[prefix + leaf] = window.whole


def _load_whole(leaf: str, module: Any, state: dict[str, Any], prefix: str, *facts: Any) -> None:
    """State-dict hook: takes a whole into the window, and hands its entries on."""
    whole = state.pop(prefix + leaf, None)
    if whole is None:
        return
    window = module.parametrizations[leaf][0]
    with torch.no_grad():
        window.whole.copy_(whole)
    state[f"{prefix}parametrizations.{leaf}.original"] = window.region.take(whole)
