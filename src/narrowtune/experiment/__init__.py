"""The experiment file: its schema, its reading, its errors."""

from narrowtune.experiment.drift import (
    DriftAction,
    DriftMeasure,
    DriftSpec,
    ProbeName,
    ProbeSpec,
)
from narrowtune.experiment.loading import (
    apply_overrides,
    digest,
    dump_experiment,
    load_experiment,
    parse_experiment,
    read_yaml,
)
from narrowtune.experiment.repeats import Replicate
from narrowtune.experiment.schema import (
    ArmSpec,
    Experiment,
    HarnessSpec,
    MetricName,
    ModelSpec,
    NoiseFloor,
    OverlapKind,
    Scored,
    Scoring,
    StageSpec,
    TaskSpec,
    TrainingOverrides,
    TrainingSpec,
)

__all__ = [
    "ArmSpec",
    "DriftAction",
    "DriftMeasure",
    "DriftSpec",
    "Experiment",
    "HarnessSpec",
    "MetricName",
    "ModelSpec",
    "NoiseFloor",
    "OverlapKind",
    "ProbeName",
    "ProbeSpec",
    "Replicate",
    "Scored",
    "Scoring",
    "StageSpec",
    "TaskSpec",
    "TrainingOverrides",
    "TrainingSpec",
    "apply_overrides",
    "digest",
    "dump_experiment",
    "load_experiment",
    "parse_experiment",
    "read_yaml",
]
