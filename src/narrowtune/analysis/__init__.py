"""Pure functions from a record to what it shows: learning, forgetting, what was kept."""

from narrowtune.analysis.changes import (
    Flip,
    Flips,
    HeldOutChange,
    flips,
    forgetting,
    held_out_average,
    held_out_by_stage,
    held_out_change,
    held_out_final,
    held_out_worst,
    learning,
    learning_by_stage,
    overall,
)
from narrowtune.analysis.estimate import Estimate
from narrowtune.analysis.export import to_dict
from narrowtune.analysis.headline import headline
from narrowtune.analysis.matrix import (
    Cell,
    Matrix,
    accuracy_matrix,
    arm_names,
    held_out_names,
    stage_names,
)
from narrowtune.analysis.samples import NO_SAMPLES, Sample, Samples
from narrowtune.analysis.summary import (
    ArmCost,
    ArmLedger,
    ArmSummary,
    Comparison,
    against_widest,
    compare_arms,
    summarise,
)

__all__ = [
    "NO_SAMPLES",
    "ArmCost",
    "ArmLedger",
    "ArmSummary",
    "Cell",
    "Comparison",
    "Estimate",
    "Flip",
    "Flips",
    "HeldOutChange",
    "Matrix",
    "Sample",
    "Samples",
    "accuracy_matrix",
    "against_widest",
    "arm_names",
    "compare_arms",
    "flips",
    "forgetting",
    "headline",
    "held_out_average",
    "held_out_by_stage",
    "held_out_change",
    "held_out_final",
    "held_out_names",
    "held_out_worst",
    "learning",
    "learning_by_stage",
    "overall",
    "stage_names",
    "summarise",
    "to_dict",
]
