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


class Window(nn.Module):
    """The whole tensor behind a parameter of trained entries.

    Args:
        whole: The tensor; its memory is used, not copied.
        region: Which of its entries are trained.
    """

    def __init__(self, whole: Tensor, region: Region) -> None:
        super().__init__()
        self.region = region
        # `data` has a version of its own, so a step on the entries does not pass for a change of
        # the whole. No buffer: a state_dict holds the whole under its plain name, and
        # DistributedDataParallel would send buffers around at every forward.
        self.whole = whole.data
        self.uses: list[_Use] = []
        self._seen: int | None = None

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
        """Put the entries into the whole.

        Always: an optimiser with kernels of its own, or an average copied in through `.data`,
        leaves no version to tell by. After a step that autograd saw, the write counts as a change
        of the whole: a backward pass through older values fails, as it does for any parameter.
        """
        stepped = entries._version != self._seen
        self.region.put(self.whole if stepped else self.whole.data, entries.data)
        self._seen = entries._version

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """The whole goes where the module goes, in its dtype."""
        self.whole = fn(self.whole)
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]


class _Whole(torch.autograd.Function):
    """The whole as it lies in memory, with the gradient going to the trained entries."""

    @staticmethod
    def forward(ctx: Any, entries: Tensor, whole: Tensor, region: Region) -> Tensor:
        ctx.region = region
        return whole.view_as(whole)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        # A copy: a view would keep the gradient of the whole alive until the step.
        entries = ctx.region.take(gradients[0])
        return entries.clone(memory_format=torch.contiguous_format), None, None


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
    parameter.grad = None  # of another shape, if there was one


def release(model: nn.Module) -> None:
    """Make every parameter whole again, with what was trained in it; windows are gone."""
    whole: dict[int, tuple[Tensor, Tensor]] = {}
    orders: dict[nn.Module, tuple[str, ...]] = {}
    for _, module, leaf, window in list(_windows(model)):
        entries, use = _entries(module, leaf), window.uses.pop(0)
        window.write(entries)
        whole[id(entries)] = entries, window.whole
        orders.setdefault(module, use.order)  # of a module's windows the first saw all in place
        use.save.remove()
        use.load.remove()
        parametrize.remove_parametrizations(module, leaf, leave_parametrized=False)
    with torch.no_grad():
        for entries, values in whole.values():
            entries.grad = None
            entries.set_(values)  # type: ignore[call-overload]
    for module, order in orders.items():
        for name in order:  # removing put them last
            module._parameters[name] = module._parameters.pop(name)


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
    *_, missing, _, errors = facts
    entries = module.parametrizations[leaf].original
    window, plain = module.parametrizations[leaf][0], prefix + leaf
    whole = state.pop(plain, None)
    if whole is None:
        missing.append(plain)
    elif whole.shape != window.whole.shape:
        sizes = f"{list(whole.shape)} in the checkpoint, {list(window.whole.shape)} in the model"
        errors.append(f"size mismatch for {plain}: {sizes}")
    else:
        with torch.no_grad():
            window.whole.copy_(whole)
        entries = window.region.take(whole)
    state[f"{prefix}parametrizations.{leaf}.original"] = entries
