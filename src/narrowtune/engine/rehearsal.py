"""Work done on tensors without data, to learn what the same work takes with data.

Weights are fake tensors (`torch._subclasses.fake_tensor`): they have shapes, dtypes and a place in
memory that is never claimed. Whatever is computed from them is fake too, so the real classes and
the real training code run through, for any model size, in the time that Python takes. What depends
on data alone (token ids, masks, image grids) is real and small, so code that looks at values goes
the way it would go.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

_ATEN = torch.ops.aten
_INDEXED = {_ATEN.index, _ATEN.index_put, _ATEN.index_put_, _ATEN._index_put_impl_}
# The attention kernels of the CPU, which PyTorch's counter leaves out.
_CPU_ATTENTION = _ATEN._scaled_dot_product_flash_attention_for_cpu
_CPU_ATTENTION_BACKWARD = _ATEN._scaled_dot_product_flash_attention_for_cpu_backward


@dataclass
class Rehearsal:
    """What a piece of work holds in memory from moment to moment, and what it computes.

    Attributes:
        wide: A tensor of floats whose last dimension is this counts as `logits`: the vocabulary.
        recomputes: Whether layers are run once more in the backward pass.
        work: Floating-point operations and bytes read and written, of each operation in turn.
    """

    wide: int = 0
    recomputes: bool = False
    work: list[tuple[int, int]] = field(default_factory=list)
    _sizes: list[int] = field(default_factory=list)
    _kinds: list[str] = field(default_factory=list)
    _events: list[int] = field(default_factory=list)  # place + 1 of what came, minus of what went
    _held: dict[int, int] = field(default_factory=dict)
    _begun: int = 0

    def hold(self, tensors: Iterable[Tensor], kind: str) -> None:
        """Count these as `kind` from now on, whether or not they were made here."""
        for tensor in tensors:
            self._kinds[self._place(tensor)] = kind

    def hold_all(self, kind: str) -> None:
        """Count all that lives now as `kind`."""
        for place in self._held.values():
            self._kinds[place] = kind

    def begin(self) -> None:
        """Forget all work so far; the peak is looked for from here on."""
        self._begun = len(self._events)
        self.work.clear()

    def at_peak(self, weigh: Callable[[int], float] = float) -> dict[str, int]:
        """Bytes by kind at the moment when they are most, counted once per storage.

        Args:
            weigh: What an allocation of so many bytes takes.
        """
        weights = [weigh(size) for size in self._sizes]
        now = most = 0.0
        last = 0
        for moment, event in enumerate(self._events):
            now += weights[event - 1] if event > 0 else -weights[-event - 1]
            if now > most and moment >= self._begun:
                most, last = now, moment
        alive: set[int] = set()
        for event in self._events[: last + 1]:
            (alive.add if event > 0 else alive.discard)(abs(event) - 1)
        found: dict[str, float] = {}
        for place in alive:
            found[self._kinds[place]] = found.get(self._kinds[place], 0.0) + weights[place]
        return {kind: round(size) for kind, size in found.items()}

    def watch(self) -> TorchDispatchMode:
        """A context in which every operation is noted."""
        return _Watching(self)

    def note(self, operation: OpOverload, inputs: Any, out: Any) -> None:
        """One operation has been done, and was no mere view."""
        made = list(_tensors(out))
        for tensor in made:
            self._place(tensor)
        moved = sum(one.nbytes for one in (*_tensors(inputs), *made))
        self.work.append((_flops(operation, inputs, out), moved))

    def _place(self, tensor: Tensor) -> int:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._held:
            self._held[key] = place = len(self._sizes)
            self._sizes.append(storage.nbytes())
            is_wide = self.wide and tensor.ndim > 1 and tensor.shape[-1] == self.wide
            floats = tensor.is_floating_point()
            self._kinds.append("logits" if is_wide and floats else "activations")
            self._events.append(place + 1)
            weakref.finalize(storage, self._drop, key).atexit = False
        return self._held[key]

    def _drop(self, key: int) -> None:
        self._events.append(-self._held.pop(key) - 1)


class _Watching(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, rehearsal: Rehearsal) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._rehearsal = rehearsal

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        given = kwargs or {}
        if func.overloadpacket in _INDEXED:
            args = (args[0], [*_as_places(args[1])], *args[2:])
        out = func(*args, **given)
        if not func.is_view:
            self._rehearsal.note(func, (args, given), out)
        return out


def _as_places(indices: Iterable[Tensor | None]) -> Iterator[Tensor | None]:
    """Indices with masks as the places where they are True: how many are chosen is data."""
    for index in indices:
        if index is None or index.dtype != torch.bool or isinstance(index, FakeTensor):
            yield index
        else:
            yield from index.nonzero(as_tuple=True)


def _tensors(values: Any) -> Iterator[Tensor]:
    """Those among arguments or results; PyTorch's own walk takes as long as all the rest.

    Sparse ones have no place in memory of their own; theirs are small: a batch's rows.
    """
    if isinstance(values, Tensor):
        if values.layout == torch.strided:
            yield values
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _tensors(value)
    elif isinstance(values, dict):
        yield from _tensors(list(values.values()))


def _flops(operation: OpOverload, inputs: Any, out: Any) -> int:
    args, kwargs = inputs
    packet = operation.overloadpacket
    if packet == _CPU_ATTENTION:
        return _attention(*args[:2])
    if packet == _CPU_ATTENTION_BACKWARD:  # five products of that size instead of two
        return _attention(*args[1:3]) * 5 // 2
    count = flop_registry.get(packet)
    return int(count(*args, **kwargs, out_val=out)) if count else 0


def _attention(query: Tensor, key: Tensor) -> int:
    """Operations of two products over [batch, heads, tokens, dimensions] and other tokens."""
    return 2 * 2 * query.numel() * key.shape[-2]


def hollow(model: nn.Module, mode: FakeTensorMode) -> nn.Module:
    """The model with tensors without data, as if on the CPU; ties stay, and what is so already.

    Args:
        model: On the meta device, or with some tensors that are real; changed in place.
        mode: What fake tensors belong to; it must allow others beside them.
    """
    made: dict[int, Tensor] = {}

    def emptied(tensor: Tensor) -> Tensor:
        if id(tensor) not in made:
            fake: Tensor = FakeTensor(mode, tensor.detach().to("meta"), torch.device("cpu"))
            if isinstance(tensor, nn.Parameter):
                fake = nn.Parameter(fake, requires_grad=tensor.requires_grad)
            made[id(tensor)] = fake
        return made[id(tensor)]

    for module in model.modules():
        held: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for tensors in held:
            for name, tensor in tensors.items():
                if tensor is not None and not isinstance(tensor, FakeTensor):
                    tensors[name] = emptied(tensor)
    return model
