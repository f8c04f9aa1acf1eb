"""Which branch adds what to the residual stream, seen in the operations of a forward.

A layer may norm a branch's output, scale it, add two branches before the stream or one after the
other: what counts is the tensor that an addition joins to the stream, and whose parameters it came
through. So tensors carry tags. A layer's input is the stream; what a module with parameters of a
branch returns is of that branch; and a function's result is of the branches of its arguments.
No family and no module needs a name, and what is not understood loses its tag.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Size, Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

STREAM, DERIVED, APART = 2, 1, 0
"""The stream itself; made of it alone, as by a norm; anything else."""

UNKNOWN = "other"
"""The branch of what no known part has written."""

_SAME = {
    "to", "float", "half", "bfloat16", "double", "type", "type_as", "contiguous", "clone",
    "detach", "dropout", "view", "reshape", "flatten", "squeeze", "unsqueeze", "view_as",
}  # fmt: skip
_ADDS = {"add", "add_"}
_LOOKS = {"__get__", "size", "dim", "numel", "is_floating_point"}

Piece = tuple[str, Tensor]


@dataclass(frozen=True)
class Tag:
    """What is known of a tensor.

    Attributes:
        nearness: `STREAM`, `DERIVED` or `APART`.
        branches: Through whose parameters it came since it left the stream.
        pieces: Of the stream, what has been added to it in this layer; of a sum of branches, its
            terms: each with its branch, [positions, hidden].
    """

    nearness: int = APART
    branches: frozenset[str] = frozenset()
    pieces: tuple[Piece, ...] = ()


@dataclass
class Flow(TorchFunctionMode):
    """Tags what the functions of a forward return while a layer runs.

    Attributes:
        at: Of a tensor shaped as the stream, what it holds at the asked positions.
    """

    at: Callable[[Tensor], Tensor]
    _tags: MutableMapping[Tensor, Tag] = field(default_factory=WeakTensorKeyDictionary, repr=False)
    _shape: Size | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        super().__init__()

    def enter(self, stream: Tensor) -> None:
        """A layer begins with this input."""
        self._shape = stream.shape
        self._tags[stream] = Tag(STREAM)

    def leave(self, output: Tensor) -> Tag:
        """The layer ends; what is known of its output."""
        self._shape = None
        return self.tag(output)

    def tag(self, tensor: Tensor) -> Tag:
        """What is known of a tensor; of most, nothing."""
        return self._tags.get(tensor, Tag())

    def returned(self, given: Any, output: Any, branch: str) -> None:
        """A module that holds parameters of a branch has read the given and returned the output.

        One of no known part leaves a branch that it scales what it is, and a stream that it adds
        a branch to.
        """
        before = max((len(self.tag(one).pieces) for one in tensors_in(given)), default=0)
        for tensor in tensors_in(output) if self._shape is not None else ():
            tag = self.tag(tensor)
            if branch != UNKNOWN or not (tag.branches or len(tag.pieces) > before):
                self._tags[tensor] = Tag(APART, frozenset({branch}))

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Call the function; its result is tagged by its arguments."""
        given, name = kwargs or {}, getattr(func, "__name__", "")
        if self._shape is None or name in _LOOKS:
            return func(*args, **given)
        # Before the call: it may overwrite an argument.
        tag = self._result_tag(name, args, given)
        result = func(*args, **given)
        if tag is not None:
            for tensor in tensors_in(args[0] if name == "__setitem__" else result):
                if tag.nearness == APART or self._is_stream_shaped(tensor):
                    self._tags[tensor] = tag
                else:
                    self._tags.pop(tensor, None)
        return result

    def _result_tag(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tag | None:
        found = [self._tags.get(tensor) for tensor in tensors_in((args, kwargs))]
        tags = [tag for tag in found if tag is not None]
        if not tags:
            return None
        if name in _ADDS and not kwargs and len(args) == len(tags) == 2:
            # As many tags as arguments: two tensors, and something is known of both.
            return self._sum(args[0], args[1]) or _mixed(tags)
        if name in _SAME and args and isinstance(args[0], Tensor):
            return self._tags.get(args[0])
        return _mixed(tags)

    def _sum(self, left: Tensor, right: Tensor) -> Tag | None:
        """The tag of an addition: of a branch to the stream, or of a branch to another."""
        if left.numel() != right.numel() or not self._is_stream_shaped(left):
            return None
        stream, other = sorted((left, right), key=lambda one: -self.tag(one).nearness)
        before, joined = self.tag(stream), self.tag(other)
        if before.nearness == APART:
            apart = before.branches.isdisjoint(joined.branches)
            pieces = self._pieces(stream) + self._pieces(other)
            return Tag(APART, before.branches | joined.branches, pieces) if apart else None
        if before.nearness == joined.nearness:
            return None
        return replace(before, pieces=before.pieces + self._pieces(other))

    def _pieces(self, term: Tensor) -> tuple[Piece, ...]:
        """What a term that is not the stream consists of, by branch."""
        tag = self.tag(term)
        if tag.nearness == APART and tag.pieces:
            return tag.pieces
        branch = "+".join(sorted(tag.branches)) if tag.nearness == APART else UNKNOWN
        return ((branch, self.at(term)),)

    def _is_stream_shaped(self, tensor: Tensor) -> bool:
        shape = self._shape
        return shape is not None and tensor.numel() == shape.numel() and tensor.ndim > 1


def tensors_in(values: Any) -> Iterator[Tensor]:
    """All tensors in nested tuples, lists and mappings."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, Mapping):
        yield from tensors_in(list(values.values()))
    elif isinstance(values, list | tuple):
        for value in values:
            yield from tensors_in(value)


def _mixed(tags: Sequence[Tag]) -> Tag:
    """Of a function's result: of its arguments' branches, or of the stream if of none."""
    apart = [tag.branches for tag in tags if tag.nearness == APART]
    if apart:
        return Tag(APART, frozenset().union(*apart))
    return Tag(DERIVED, pieces=max((tag.pieces for tag in tags), key=len))
