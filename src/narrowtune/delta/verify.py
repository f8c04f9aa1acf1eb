"""Proving what a delta says: its base is this one, and nothing outside it changed."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from narrowtune.delta.delta import Delta, apply_delta, fits
from narrowtune.delta.ledger import Snapshot, changed, fingerprint, model_digest
from narrowtune.models.quantized_linear import dequantize, quantization_of
from narrowtune.record.delta_header import Header


@dataclass(frozen=True)
class Check:
    """One thing that was looked at, and what was found."""

    name: str
    passed: bool
    found: str


def verify(base: nn.Module, delta: Delta, tuned: nn.Module | None = None) -> tuple[Check, ...]:
    """What holds of a delta and the base it is said to come from.

    `base` ends with the delta applied, unless it is another model than the delta's; where it is
    quantised and `tuned` is not, unpacked as well.

    Args:
        base: The base, or the base with the stages before applied, in the delta's dtype.
        delta: The delta; its file's integrity was checked when it was read.
        tuned: A model said to be the base with the delta, scaled if it is, on it.
    """
    header = delta.header
    now = Snapshot.of(base, header.trained)
    found = now.digest
    known = found in (header.base.sha256, header.parent_sha256)
    made = f"sha256 {found[:12]}; the delta was made from {header.base.sha256[:12]}"
    checks = [Check("base", known, made if not known else f"sha256 {found[:12]}")]
    if not known:
        return tuple(checks)
    checks.append(_frozen(now, header))
    if not fits(now, header):
        return tuple(checks)
    apply_delta(base, delta)
    if header.alpha == 1.0:  # a scaled delta's file knows no hash of what it gives
        checks.append(_result(base, delta))
    if tuned is not None:
        if quantization_of(tuned) is None:
            dequantize(base)
        checks.append(_same(base, tuned))
    return tuple(checks)


def _frozen(now: Snapshot, header: Header) -> Check:
    held = now.frozen_digest == header.frozen_sha256
    found = "bit-identical" if held else "training changed what the delta does not hold"
    return Check("nothing else changed", held, found)


def _result(applied: nn.Module, delta: Delta) -> Check:
    found = model_digest(applied)
    same = found == delta.header.result_sha256
    return Check("gives the trained weights", same, f"sha256 {found[:12]}")


def _same(applied: nn.Module, tuned: nn.Module) -> Check:
    different = changed(fingerprint(applied), fingerprint(tuned))
    found = "bit-identical" if not different else f"{len(different)} differ: {different[0]}"
    return Check("the tuned model is base and delta", not different, found)
