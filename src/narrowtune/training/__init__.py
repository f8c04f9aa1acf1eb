"""Teaching one stage: the loop, its optimiser over trained weights alone, its checkpoints."""

from narrowtune.training.anchoring import AnswerAnchor, WeightAnchor, fisher_diagonal
from narrowtune.training.budget import Gate, Looking, Measured, Penalty, StopAtBudget
from narrowtune.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from narrowtune.training.distillation import Distillation, Remembered, Swapped
from narrowtune.training.guard import Guard, Guards, GuardState, Unguarded
from narrowtune.training.loop import (
    Abandoned,
    Diverged,
    Objective,
    StepResult,
    labels_alone,
    teach,
)
from narrowtune.training.schedule import learning_rate_factor, planned_steps
from narrowtune.training.settings import Settings
from narrowtune.training.stage import Hooks, Interrupted, StageResult, batch_order, run_stage
from narrowtune.training.weights import TrainedWeights

__all__ = [
    "Abandoned",
    "AnswerAnchor",
    "Checkpoint",
    "Distillation",
    "Diverged",
    "Gate",
    "Guard",
    "GuardState",
    "Guards",
    "Hooks",
    "Interrupted",
    "Looking",
    "Measured",
    "Objective",
    "Penalty",
    "Remembered",
    "Settings",
    "StageResult",
    "StepResult",
    "StopAtBudget",
    "Swapped",
    "TrainedWeights",
    "Unguarded",
    "WeightAnchor",
    "batch_order",
    "fisher_diagonal",
    "labels_alone",
    "learning_rate_factor",
    "load_checkpoint",
    "planned_steps",
    "run_stage",
    "save_checkpoint",
    "teach",
]
