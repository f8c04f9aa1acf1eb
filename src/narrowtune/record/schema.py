"""What a run leaves behind, as data: `record.json`, schema-versioned."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from narrowtune.experiment import Experiment

SCHEMA_VERSION = 1
BASE = "base"
"""The arm and stage name of scores taken on the untouched model."""

NOISE_FLOOR = "noise_floor"
"""The probe whose readings compare two scorings of the base, in batches of different sizes."""

WISE_FT = "wise_ft"
"""The probe of readings about the share of a stage's change that was kept: tried, and chosen."""

Status = Literal["running", "interrupted", "failed", "complete"]


class Row(BaseModel):
    """Base of every row: immutable, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class OfReplicate(Row):
    """A row of one replicate; `replicate` is its name, empty where the experiment ran once."""

    replicate: str = ""


class Score(OfReplicate):
    """One task's value on one model; `value` and `stderr` are fractions (0 to 1), not percent.

    `stderr` is the standard error of the mean over the `n` samples.
    """

    arm: str
    stage: str
    task: str
    role: Literal["target", "held_out"]
    metric: str
    value: float
    n: int
    stderr: float
    higher_is_better: bool = True
    task_version: str


class LedgerRow(OfReplicate):
    """Whether everything frozen stayed bit-identical through a stage, and what did not.

    `frozen` counts tensors, buffers included; `changed` names those whose hash differs.
    """

    arm: str
    stage: str
    held: bool
    frozen: int
    changed: tuple[str, ...] = ()


class Cost(OfReplicate):
    """What teaching one stage cost: wall seconds of training alone, bytes at the peak.

    `tokens` counts the tokens put through the model (image tokens included, padding not);
    `peak_bytes` is the device's peak on a GPU and the process's peak resident size on CPU.
    """

    arm: str
    stage: str
    seconds: float
    steps: int
    samples: int
    tokens: int
    supervised_tokens: int
    samples_per_second: float
    peak_bytes: int
    trained_numel: int
    total_numel: int
    evaluation_seconds: float = 0.0


class LossRow(Row):
    """Mean loss (nats per supervised token) of one optimiser step."""

    arm: str
    stage: str
    step: int
    loss: float
    learning_rate: float
    grad_norm: float


class DataFile(Row):
    """One data file the run read: its path as given, its rows, and the hash of what it holds.

    `sha256` covers the file's bytes and those of every image it names.
    """

    path: str
    rows: int
    images: int = 0
    sha256: str


class DataOrder(OfReplicate):
    """Digest of the order in which one stage's training samples were visited."""

    arm: str
    stage: str
    sha256: str


class DivergedRow(OfReplicate):
    """A cell that was given up, its loss being no number, say: where, why, and that it ended there.

    `step` counts from 1; what the arm had learned in earlier stages is in the other rows.
    """

    arm: str
    stage: str
    step: int
    reason: str


class ReplicateRow(Row):
    """One order and seed of a repeated experiment; its own record lies in the folder `name`."""

    name: str
    order: tuple[str, ...]
    seed: int
    status: Status
    digest: str


class Record(Row):
    """Everything a run produced; a failed or interrupted run still leaves a valid one.

    A repeated experiment's record gathers scores, ledgers, costs and data orders of its
    `replicates`; losses stay in their own records.
    """

    schema_version: int = SCHEMA_VERSION
    status: Status = "running"
    error: str | None = None
    experiment: Experiment
    digest: str
    environment: dict[str, Any] = {}
    plan: dict[str, Any] = {}
    data: tuple[DataFile, ...] = ()
    replicates: tuple[ReplicateRow, ...] = ()
    scores: tuple[Score, ...] = ()
    readings: tuple[dict[str, Any], ...] = ()
    ledger: tuple[LedgerRow, ...] = ()
    cost: tuple[Cost, ...] = ()
    losses: tuple[LossRow, ...] = ()
    data_order: tuple[DataOrder, ...] = ()
    diverged: tuple[DivergedRow, ...] = ()
