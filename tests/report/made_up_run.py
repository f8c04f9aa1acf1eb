"""A made-up but lifelike run: 3 arms x 2 stages x 2 targets, 5 held-out tasks, predictions."""

from __future__ import annotations

import hashlib
import math
import random
from pathlib import Path
from typing import Any

from narrowtune.experiment import ArmSpec, Experiment, ModelSpec, StageSpec, TaskSpec, TrainingSpec
from narrowtune.record import (
    BASE,
    Cost,
    DataFile,
    DataOrder,
    LedgerRow,
    LossRow,
    Record,
    Score,
    predictions_path,
    write_predictions,
    write_record,
)

TOTAL = 2_412_288
SIZES = {"language": 1_605_632, "attention": 393_216, "gate-up": 524_288}
SECONDS = {"language": 24.1, "attention": 19.7, "gate-up": 20.6}
STAGES = ("counting", "scene-text")
ANSWERS = {
    "counting": [str(n) for n in range(1, 10)],
    "scene-text": ["EXIT", "CAFE", "TAXI", "OPEN", "HOTEL", "PARK"],
    "relations": ["above", "below", "left", "right"],
    "charts": ["12", "30", "45", "60", "75"],
    "everyday": ["yes", "no"],
    "choices": ["A", "B", "C", "D"],
    "captions": ["a red circle above a blue square", "two green stars on a grey ground"],
}
METRICS = {"counting": "number", "everyday": "yes_no", "choices": "option"}
HELD_OUT = tuple(task for task in ANSWERS if task not in STAGES)
# The chance that an answer is right: base, then after each stage, by arm.
RIGHT: dict[str, dict[str, tuple[float, float]]] = {
    "language": {
        "counting": (0.93, 0.71), "scene-text": (0.06, 0.86), "relations": (0.55, 0.71),
        "charts": (0.62, 0.70), "everyday": (0.31, 0.62), "choices": (0.49, 0.66),
        "captions": (0.18, 0.40),
    },
    "attention": {
        "counting": (0.78, 0.70), "scene-text": (0.04, 0.69), "relations": (0.90, 0.89),
        "charts": (0.85, 0.84), "everyday": (0.90, 0.91), "choices": (0.87, 0.88),
        "captions": (0.80, 0.82),
    },
    "gate-up": {
        "counting": (0.90, 0.84), "scene-text": (0.05, 0.83), "relations": (0.84, 0.86),
        "charts": (0.78, 0.81), "everyday": (0.80, 0.87), "choices": (0.82, 0.85),
        "captions": (0.62, 0.74),
    },
}  # fmt: skip
UNTAUGHT = {
    "counting": 0.12, "scene-text": 0.03, "relations": 0.91, "charts": 0.86, "everyday": 0.92,
    "choices": 0.88, "captions": 0.84,
}  # fmt: skip
N = 200


def write_run(folder: Path, arms: tuple[str, ...] = tuple(SIZES), n: int = N) -> Record:
    """Write record.json and predictions of a complete run into `folder`."""
    record = make_record(arms, n)
    rows = {}
    for score in record.scores:
        rows[score.arm, score.stage, score.task] = answers(score.arm, score.stage, score.task, n)
    for (arm, stage, task), samples in rows.items():
        write_predictions(predictions_path(folder, arm, stage, task), samples)
    write_record(record, folder)
    return record


def make_record(arms: tuple[str, ...] = tuple(SIZES), n: int = N) -> Record:
    """The record of a complete run."""
    experiment = make_experiment(arms)
    points = [(BASE, BASE)] + [(arm, stage) for arm in arms for stage in STAGES]
    files = [f"data/{task}.jsonl" for task in ANSWERS]
    return Record(
        status="complete",
        experiment=experiment,
        digest=digest("experiment"),
        environment={
            "packages": {"narrowtune": "0.1.0", "torch": "2.13.0"},
            "device": "cpu",
            "threads": 2,
        },
        plan={"steps": {stage: 60 for stage in STAGES}, "warnings": []},
        data=tuple(DataFile(path=f, rows=n, sha256=digest(f)) for f in files),
        scores=tuple(score(*point, task, n) for point in points for task in ANSWERS),
        ledger=tuple(
            LedgerRow(arm=a, stage=s, held=True, frozen=141) for a in arms for s in STAGES
        ),
        cost=tuple(cost(arm, stage) for arm in arms for stage in STAGES),
        losses=tuple(row for arm in arms for stage in STAGES for row in losses(arm, stage)),
        data_order=tuple(
            DataOrder(arm=arm, stage=stage, sha256=digest(stage))
            for arm in arms
            for stage in STAGES
        ),
    )


def make_experiment(arms: tuple[str, ...] = tuple(SIZES)) -> Experiment:
    """Two stages, five held-out tasks and the given arms."""
    return Experiment(
        model=ModelSpec(id="pico-qwen", dtype="float32"),
        stages=tuple(
            StageSpec(name=s, train=f"data/{s}/train.jsonl", test=f"data/{s}.jsonl") for s in STAGES
        ),
        held_out=tuple(TaskSpec(name=task, test=f"data/{task}.jsonl") for task in HELD_OUT),
        arms=tuple(ArmSpec(name=arm, train=("language",)) for arm in arms),
        training=TrainingSpec(learning_rate=1e-3, batch_size=32),
    )


def answers(arm: str, stage: str, task: str, n: int) -> list[dict[str, Any]]:
    """Per-sample rows; a sample that is hard for one model tends to be hard for all."""
    chance = UNTAUGHT[task] if arm == BASE else RIGHT[arm][task][STAGES.index(stage)]
    own = random.Random(f"{arm} {stage} {task}")
    rows = []
    for index in range(n):
        luck = random.Random(f"{task} {index}")
        difficulty, truth = luck.random(), luck.choice(ANSWERS[task])
        mixed = (difficulty + own.random()) / 2 if own.random() < 0.3 else difficulty
        right = mixed < chance
        wrong = ANSWERS[stage if arm != BASE else task]
        given = truth if right else own.choice([a for a in wrong if a != truth])
        rows.append(
            {"id": f"{task}-{index}", "prediction": given, "references": [truth],
             "score": float(right)}
        )  # fmt: skip
    return rows


def score(arm: str, stage: str, task: str, n: int = N) -> Score:
    """The score that the made-up answers add up to."""
    right = [row["score"] for row in answers(arm, stage, task, n)]
    value = sum(right) / n
    return Score(
        arm=arm,
        stage=stage,
        task=task,
        role="target" if task in STAGES else "held_out",
        metric=METRICS.get(task, "exact"),
        value=value,
        n=n,
        stderr=math.sqrt(value * (1 - value) / (n - 1)),
        task_version="1",
    )


def cost(arm: str, stage: str) -> Cost:
    """What one stage of an arm cost."""
    seconds = SECONDS[arm] * (1.0 if stage == STAGES[0] else 1.15)
    return Cost(
        arm=arm, stage=stage, seconds=seconds, steps=60, samples=1920, tokens=67_200,
        supervised_tokens=4_100, samples_per_second=1920 / seconds,
        peak_bytes=int(7.1e8 + 16 * SIZES[arm]), trained_numel=SIZES[arm], total_numel=TOTAL,
        evaluation_seconds=14.0,
    )  # fmt: skip


def losses(arm: str, stage: str) -> list[LossRow]:
    """A falling, noisy loss."""
    noise = random.Random(f"{arm} {stage} loss")
    speed = {"language": 9.0, "attention": 16.0, "gate-up": 11.0}[arm]
    rows = []
    for step in range(1, 61):
        loss = 0.25 + 2.6 * math.exp(-step / speed) + noise.gauss(0, 0.07)
        rate = 1e-3 * 0.5 * (1 + math.cos(math.pi * step / 60))
        rows.append(
            LossRow(arm=arm, stage=stage, step=step, loss=max(loss, 0.02), learning_rate=rate,
                    grad_norm=abs(noise.gauss(1, 0.3)))
        )  # fmt: skip
    return rows


def digest(text: str) -> str:
    """A sha256 as hex."""
    return hashlib.sha256(text.encode()).hexdigest()
