"""What a delta file says about itself; read without torch."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open

from narrowtune.anatomy import Region
from narrowtune.errors import InputError

FORMAT = 1
KEY = "narrowtune"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Quantization(_Part):
    """Which frozen matrices of a model are kept in few bits.

    Attributes:
        type: How their numbers are rounded, such as `nf4`.
        modules: Paths of the linear layers.
        numel: How many numbers their matrices have.
        total_numel: How many the whole model has.
    """

    type: str
    modules: tuple[str, ...]
    numel: int
    total_numel: int

    def packs_as(self, other: Quantization) -> bool:
        """Whether the same is packed, whatever a model was given besides, as experts."""
        return (self.type, {*self.modules}) == (other.type, {*other.modules})

    def to_row(self) -> dict[str, Any]:
        """In numbers, for a record."""
        return self.model_dump(exclude={"modules"}) | {"matrices": len(self.modules)}

    def __str__(self) -> str:
        return (
            f"{self.type}: {self.numel:,} of {self.total_numel:,} numbers in "
            f"{len(self.modules)} matrices"
        )


class Base(_Part):
    """The model that a run started from: what it was called, and its weights' digest.

    `dtype` is the one it was loaded and hashed in, `quantization` what of it was in few bits then.
    """

    id: str
    revision: str | None = None
    dtype: str
    sha256: str
    quantization: Quantization | None = None


class Entry(_Part):
    """One changed parameter: its whole shape, its words, and which of its entries are here.

    `region` counts into the header's list of regions; None when all entries are here.
    """

    shape: tuple[int, ...]
    terms: tuple[str, ...]
    region: int | None = None


class Experts(_Part):
    """Two experts in the place of each of some MLPs: itself, and a trained copy.

    Attributes:
        blocks: Module paths of the MLPs.
        top_k: How many experts answer a token: 2 mixes both by their probabilities, 1 takes the
            likelier. The same in training and in use.
        seed: Draws the first routers of `top_k` 1.
    """

    blocks: tuple[str, ...]
    top_k: int = 2
    seed: int = 0


class Header(_Part):
    """All about a delta but its numbers.

    Attributes:
        base: Where the run started.
        parent_sha256: Digest of the weights that this stage began from; those of `base`, too,
            for a first stage.
        frozen_sha256: Digest of all entries that are not here, after training.
        result_sha256: Digest of the weights after training.
        terms: What was trained.
        keep: What was left out of it.
        arm: The arm's name, empty outside an experiment.
        stage: The stage's name, empty outside an experiment.
        scores_sha256: Digest of the stage's scores in the record; None before they are taken.
        tool: Name and version of what wrote the file.
        alpha: How much of the change counts; `delta scale` sets it.
        entries: By parameter name.
        regions: Each once: dimension and half-open ranges.
        experts: What the model was given before the first stage; None for a plain model.
        content_sha256: Digest over the numbers.
    """

    format: int = FORMAT
    base: Base
    parent_sha256: str
    frozen_sha256: str
    result_sha256: str
    terms: tuple[str, ...]
    keep: tuple[str, ...] = ()
    arm: str = ""
    stage: str = ""
    scores_sha256: str | None = None
    tool: str
    alpha: float = 1.0
    entries: dict[str, Entry]
    regions: tuple[tuple[int, tuple[tuple[int, int], ...]], ...] = ()
    content_sha256: str
    experts: Experts | None = None

    def region(self, name: str) -> Region | None:
        """Which entries of a parameter are here, None for all."""
        index = self.entries[name].region
        return None if index is None else Region(*self.regions[index])

    @property
    def trained(self) -> dict[str, Region | None]:
        """Which entries of each parameter are here."""
        return {name: self.region(name) for name in self.entries}

    @property
    def numel(self) -> int:
        """How many numbers are here."""
        return sum(map(self.numel_of, self.entries))

    def numel_of(self, name: str) -> int:
        """How many numbers of one parameter are here."""
        shape, region = self.entries[name].shape, self.region(name)
        whole = math.prod(shape)
        return whole if region is None else whole // shape[region.dim] * region.size

    def to_metadata(self) -> dict[str, str]:
        """The header as a safetensors file keeps it, sealed against alteration."""
        values = self.model_dump(mode="json")
        # One key: with more, safetensors writes them in an order that differs from run to run.
        return {KEY: json.dumps({"header": values, "sha256": _seal(values)}, sort_keys=True)}


def read_header(path: Path) -> Header:
    """The header of a delta file.

    Raises:
        InputError: If there is no such file, it is damaged or altered, or no delta.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata: dict[str, str] = file.metadata() or {}
    except OSError as error:
        raise InputError(f"{path} can't be read: {error}") from error
    except SafetensorError as error:
        raise InputError(f"{path} can't be read, it is truncated or damaged: {error}") from error
    if KEY not in metadata:
        raise InputError(f"{path} is no delta: its header has no entry {KEY!r}")
    values, seal = _sealed(metadata[KEY])
    if seal != _seal(values):
        raise InputError(f"{path} has been altered: its header does not match its seal")
    if values.get("format") != FORMAT:
        raise InputError(
            f"{path} is a delta of format {values.get('format')}, and this version of narrowtune "
            f"reads format {FORMAT}"
        )
    try:
        return Header(**values)
    except ValidationError as error:
        raise InputError(f"{path} is no valid delta: {error.errors()[0]['msg']}") from error


def _sealed(text: str) -> tuple[dict[str, Any], str]:
    """The values and the seal that a file's text holds; empty where it holds none."""
    try:
        outer = json.loads(text)
        return dict(outer["header"]), str(outer["sha256"])
    except (ValueError, KeyError, TypeError):
        return {}, ""


def _seal(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
