"""Teaching one stage: the loop, its optimiser over trained weights alone, its checkpoints."""

from narrowtune.training.budget import Gate, Looking, Measured, Penalty, StopAtBudget
from narrowtune.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from narrowtune.training.guard import Guard, GuardState, Unguarded
from narrowtune.training.loop import Diverged, StepResult, teach
from narrowtune.training.schedule import learning_rate_factor, planned_steps
from narrowtune.training.settings import Settings
from narrowtune.training.stage import Hooks, Interrupted, StageResult, batch_order, run_stage
from narrowtune.training.weights import TrainedWeights

__all__ = [
    "Checkpoint",
    "Diverged",
    "Gate",
    "Guard",
    "GuardState",
    "Hooks",
    "Interrupted",
    "Looking",
    "Measured",
    "Penalty",
    "Settings",
    "StageResult",
    "StepResult",
    "StopAtBudget",
    "TrainedWeights",
    "Unguarded",
    "batch_order",
    "learning_rate_factor",
    "load_checkpoint",
    "planned_steps",
    "run_stage",
    "save_checkpoint",
    "teach",
]
