"""Pure functions from a record to what it shows: learning, forgetting, what was kept."""

from narrowtune.analysis.changes import (
    Flip,
    Flips,
    HeldOutChange,
    flips,
    forgetting,
    from_best,
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
from narrowtune.analysis.export import pooled_to_dict, to_dict, together_to_dict
from narrowtune.analysis.forms import FormShift, form_shifts
from narrowtune.analysis.headline import headline, pooled_headline
from narrowtune.analysis.matrix import (
    Cell,
    Matrix,
    accuracy_matrix,
    arm_names,
    held_out_names,
    stage_names,
)
from narrowtune.analysis.recovery import Recovery, recoveries
from narrowtune.analysis.replicates import (
    PooledArm,
    Run,
    Runs,
    compare_pooled,
    pool,
    pool_all,
    pooled_against_widest,
)
from narrowtune.analysis.samples import NO_SAMPLES, Sample, Samples
from narrowtune.analysis.significance import PairedTest, paired_tests
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
    "FormShift",
    "HeldOutChange",
    "Matrix",
    "PairedTest",
    "PooledArm",
    "Recovery",
    "Run",
    "Runs",
    "Sample",
    "Samples",
    "accuracy_matrix",
    "against_widest",
    "arm_names",
    "compare_arms",
    "compare_pooled",
    "flips",
    "forgetting",
    "form_shifts",
    "from_best",
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
    "paired_tests",
    "pool",
    "pool_all",
    "pooled_against_widest",
    "pooled_headline",
    "pooled_to_dict",
    "recoveries",
    "stage_names",
    "summarise",
    "to_dict",
    "together_to_dict",
]
