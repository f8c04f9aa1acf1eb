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
from narrowtune.experiment.methods import (
    EwcSpec,
    KlAnchorSpec,
    L2SpSpec,
    LoraSpec,
    LwfSpec,
    MethodSpec,
    MoeSpec,
    ReplaySpec,
    WiseFtSpec,
)
from narrowtune.experiment.repeats import Replicate
from narrowtune.experiment.schema import (
    ArmSpec,
    Experiment,
    ModelSpec,
    NoiseFloor,
    StageSpec,
    TrainingOverrides,
    TrainingSpec,
)
from narrowtune.experiment.scored import (
    HarnessSpec,
    MetricName,
    OverlapKind,
    Scored,
    Scoring,
    TaskSpec,
)

__all__ = [
    "ArmSpec",
    "DriftAction",
    "DriftMeasure",
    "DriftSpec",
    "EwcSpec",
    "Experiment",
    "HarnessSpec",
    "KlAnchorSpec",
    "L2SpSpec",
    "LoraSpec",
    "LwfSpec",
    "MethodSpec",
    "MetricName",
    "ModelSpec",
    "MoeSpec",
    "NoiseFloor",
    "OverlapKind",
    "ProbeName",
    "ProbeSpec",
    "ReplaySpec",
    "Replicate",
    "Scored",
    "Scoring",
    "StageSpec",
    "TaskSpec",
    "TrainingOverrides",
    "TrainingSpec",
    "WiseFtSpec",
    "apply_overrides",
    "digest",
    "dump_experiment",
    "load_experiment",
    "parse_experiment",
    "read_yaml",
]
