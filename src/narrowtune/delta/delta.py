"""A delta: what a stage changed, and nothing else, to be put on its base again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from narrowtune.anatomy import Region, SelectedTensor
from narrowtune.anatomy.packed import packed_parameters
from narrowtune.anatomy.windows import plain_parameters, plain_tensors, release
from narrowtune.delta.ledger import Ledger, Snapshot, hash_tensor
from narrowtune.delta.tensors import load_tensors, save_tensors
from narrowtune.errors import InputError
from narrowtune.models.experts import COPY, add_experts, experts_of
from narrowtune.models.quantized_linear import quantization_of
from narrowtune.record.delta_header import Base, Entry, Header, read_header

TOOL = "narrowtune"
_LARGEST_ALPHA = 1000.0  # beyond it no interpolation makes sense, and fp32 overflows


@dataclass(frozen=True)
class Delta:
    """The values that training left in the changed entries, by parameter name.

    Values, not differences: put on the base in full they are the trained weights bit by bit.
    """

    header: Header
    tensors: Mapping[str, Tensor]

    @classmethod
    def of(
        cls,
        ledger: Ledger,
        base: Base | str,
        after: Snapshot | None = None,
        arm: str = "",
        stage: str = "",
    ) -> Delta:
        """What was trained in a ledger's model since the ledger was opened.

        Args:
            ledger: Opened before training; its selection says which entries are here.
            base: Where the model comes from; a name alone when it was loaded just before the
                ledger was opened.
            after: The model as it is now, if the ledger has just looked at it.
            arm: The arm's name, in an experiment.
            stage: The stage's name, in an experiment.

        If something frozen changed it is not in the delta, and `verify` will tell.
        """
        after = after or ledger.look()
        model, selection = ledger.model, ledger.selection
        if isinstance(base, str):
            base = Base(
                id=base,
                dtype=dtype_of(model),
                sha256=ledger.before.digest,
                quantization=quantization_of(model),
            )
        whole = dict(plain_tensors(model))
        tensors = {}
        for name, region in selection.regions.items():
            values = whole[name] if region is None else region.take(whole[name])
            # A copy, which training on does not move.
            tensors[name] = values.detach().to("cpu", copy=True).contiguous()
        regions, entries = _entries(selection.tensors, whole)
        header = Header(
            base=base,
            parent_sha256=ledger.before.digest,
            frozen_sha256=after.frozen_digest,
            result_sha256=after.digest,
            terms=selection.terms,
            keep=selection.keep,
            tool=_tool(),
            entries=entries,
            regions=regions,
            content_sha256=_content(tensors),
            arm=arm,
            stage=stage,
            experts=experts_of(model),
        )
        return cls(header, tensors)

    def save(self, path: str | Path) -> None:
        """Write one safetensors file; a crash half-way leaves an older one whole."""
        save_tensors(Path(path), self.tensors, self.header.to_metadata())

    def scaled(self, alpha: float) -> Delta:
        """The same change, counting `alpha` times as much.

        Raises:
            InputError: If `alpha` is not finite.
        """
        check_alpha(alpha)
        header = self.header.model_copy(update={"alpha": self.header.alpha * alpha})
        return replace(self, header=header)

    def with_scores(self, sha256: str) -> Delta:
        """The same delta, bound to the scores that its weights reached."""
        return replace(self, header=self.header.model_copy(update={"scores_sha256": sha256}))


def read_delta(path: str | Path) -> Delta:
    """A delta from its file.

    Raises:
        InputError: If the file is missing, truncated, altered or no delta.
    """
    path = Path(path)
    header = read_header(path)
    tensors = load_tensors(path)
    if _content(tensors) != header.content_sha256:
        raise InputError(f"{path} has been altered: its tensors do not match its header")
    return Delta(header, tensors)


@torch.no_grad()
def apply_delta(model: nn.Module, delta: Delta, alpha: float = 1.0) -> None:
    """Move the model's entries from where they are to the delta's, by a share `alpha`.

    1 gives the trained weights bit by bit, 0 changes nothing; between and beyond them
    w + alpha (v - w) in fp32, rounded once to the weights' dtype (the interpolation of WiSE-FT,
    arXiv 2109.01903, section 3). A selection applied to the model is released first. Where the
    delta is of a mixture of experts, the model is given them, and computes as before until then.

    Raises:
        InputError: If the model is not what the delta was made from or began from.
    """
    check_alpha(alpha)
    share = alpha * delta.header.alpha
    release(model)
    give_experts(model, delta.header)
    whole = dict(plain_tensors(model))
    if problems := _misfits(delta.header, whole, model):
        raise InputError(problems)
    for name, region in delta.header.trained.items():
        tensor, value = whole[name], delta.tensors[name].to(whole[name].device)
        now = tensor if region is None else region.take(tensor)
        mixed = between(now, value, share)
        if region is None:
            tensor.copy_(mixed)
        else:
            region.put(tensor, mixed)


def give_experts(model: nn.Module, header: Header) -> None:
    """The experts that a delta's model was given before it was taught, unless it has them."""
    if header.experts is None or experts_of(model) is not None:
        return
    for parameter in model.parameters():
        parameter.requires_grad = False
    copied = [name.replace(f".{COPY}.", ".") for name in header.entries]
    add_experts(model, header.experts, copied)


def apply_deltas(model: nn.Module, deltas: Sequence[Delta], alpha: float = 1.0) -> None:
    """Apply deltas of successive stages in order, the last one by a share `alpha`.

    Raises:
        InputError: As `apply_delta`, telling which delta does not continue the one before.
    """
    for number, delta in enumerate(deltas, start=1):
        try:
            apply_delta(model, delta, alpha if number == len(deltas) else 1.0)
        except InputError as error:
            if len(deltas) == 1:
                raise
            where = f"delta {number} of {len(deltas)} ({delta.header.arm} {delta.header.stage})"
            raise InputError([f"{where}: {problem}" for problem in error.problems]) from error


def dtype_of(model: nn.Module) -> str:
    """The dtype most of a model's numbers have, those that are quantised left out."""
    counts: dict[str, int] = {}
    packed = {piece for one in packed_parameters(model).values() for piece in one.pieces}
    for path, parameter in plain_parameters(model):
        if path in packed:
            continue
        name = str(parameter.dtype).removeprefix("torch.")
        counts[name] = counts.get(name, 0) + parameter.numel()
    return max(counts, key=lambda name: counts[name])


def check_alpha(alpha: float) -> None:
    """Refuse what is no finite number, or far from any share.

    Raises:
        InputError: If it is not.
    """
    if not isinstance(alpha, int | float) or not abs(alpha) <= _LARGEST_ALPHA:
        raise InputError(
            f"alpha must be a finite number (0: none of the change, 1: all of it), at most "
            f"{_LARGEST_ALPHA:g} in size, not {alpha!r}"
        )


def between(base: Tensor, value: Tensor, share: float) -> Tensor:
    """base + share (value - base) in fp32, rounded once; at 0 and 1 the ends bit by bit."""
    if share in (0.0, 1.0):
        return value if share else base
    start = base.float()
    return (start + share * (value.float() - start)).to(base.dtype)


def fits(now: Snapshot, header: Header) -> bool:
    """Whether weights are those the stage began from, or the run's base.

    The base will do for a later stage if all that changed since lies in the delta.
    """
    began = now.digest == header.parent_sha256
    covers = now.frozen_digest == header.frozen_sha256
    return began or (now.digest == header.base.sha256 and covers)


def _misfits(header: Header, whole: Mapping[str, Tensor], model: nn.Module) -> list[str]:
    """Why a delta can't be put on these weights; empty if it can."""
    if problem := _otherwise_quantised(header, model):
        return [problem]
    missing = [name for name in header.entries if name not in whole]
    if missing:
        return [f"the model has no parameter {missing[0]} ({len(missing)} such): {_made(header)}"]
    for name, entry in header.entries.items():
        shape = tuple(whole[name].shape)
        if shape != entry.shape:
            return [
                f"{name} is {list(shape)} in the model and {list(entry.shape)} in the delta: "
                + _made(header)
            ]
    now = Snapshot.of(model, header.trained)
    if now.digest == header.result_sha256 != header.parent_sha256:
        return ["the model already has this delta on it"]
    if not fits(now, header):
        return [f"the model's weights are not those the delta belongs to: {_made(header)}"]
    return []


def _otherwise_quantised(header: Header, model: nn.Module) -> str:
    """Why a delta of a quantised base does not belong on a plain one, and so on; empty if it does.

    The weights that were trained are corrections to a model that computed with rounded matrices.
    """
    wanted, found = header.base.quantization, quantization_of(model)
    if wanted is found or (wanted and found and wanted.packs_as(found)):
        return ""
    has = f"quantised ({found})" if found else "not quantised"
    if wanted is None:
        return f"the model is {has}, and the delta belongs to the plain one: {_made(header)}"
    return (
        f"the delta belongs to a quantised base ({wanted}), and the model is {has}: load it the "
        f"same way, as nt.load(..., delta=...) and narrowtune delta do; {_made(header)}"
    )


def _made(header: Header) -> str:
    continues = header.parent_sha256 != header.base.sha256
    after = f", with the stages before it applied (sha256 {header.parent_sha256[:12]})"
    return (
        f"it was made from {header.base.id} in {header.base.dtype} "
        f"(sha256 {header.base.sha256[:12]}){after if continues else ''}"
    )


def _entries(
    tensors: Iterable[SelectedTensor], whole: Mapping[str, Tensor]
) -> tuple[tuple[tuple[int, tuple[tuple[int, int], ...]], ...], dict[str, Entry]]:
    """The header's regions, each once, and its entries."""
    numbers: dict[Region, int] = {}
    entries = {}
    for tensor in tensors:
        parts = [s.part for s in tensor.slices] if tensor.slices else [tensor.part]
        region = tensor.region
        index = None if region is None else numbers.setdefault(region, len(numbers))
        entries[tensor.name] = Entry(
            shape=tuple(whole[tensor.name].shape),
            terms=tuple(f"{tensor.tower}.{part}" for part in parts),
            region=index,
        )
    return tuple((region.dim, region.ranges) for region in numbers), entries


def _content(tensors: Mapping[str, Tensor]) -> str:
    lines = (f"{name} {hash_tensor(tensors[name])}\n" for name in sorted(tensors))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _tool() -> str:
    from importlib.metadata import version

    return f"{TOOL} {version(TOOL)}"
