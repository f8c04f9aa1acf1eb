"""What every step of a run needs at hand, and the model that an arm takes through its stages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from narrowtune.anatomy import Selection
from narrowtune.engine import Engine
from narrowtune.models.loading import load_model
from narrowtune.record import Base
from narrowtune.runner.features import KeptFeatures
from narrowtune.runner.journal import Journal
from narrowtune.runner.methods import BaseValues
from narrowtune.runner.observer import Observer
from narrowtune.runner.plan import Plan

if TYPE_CHECKING:
    from narrowtune.runner.execute import Options

Trained = Sequence[tuple[str, nn.Parameter]]


@dataclass
class Session:
    """What every step of a run needs at hand."""

    plan: Plan
    folder: Path
    engine: Engine
    options: Options
    journal: Journal
    observer: Observer
    features: KeptFeatures
    should_stop: Callable[[], bool] = lambda: False
    base_from: Path | None = None
    doing: str = "starting"

    def begin(self, what: str, total: int) -> None:
        """Say what comes next, to the observer and for error messages."""
        self.doing = what
        self.observer.phase(what, total)


@dataclass(frozen=True)
class Learner:
    """The model of an arm on its way through the stages.

    Attributes:
        model: The model.
        selection: What is trained in it; with experts, their parameters.
        trained: These parameters.
        came_from: The base, for the deltas.
        base: What the arm's methods keep of the base.
    """

    model: nn.Module
    selection: Selection
    trained: Trained
    came_from: Base
    base: BaseValues


def load_base(session: Session) -> nn.Module:
    """The experiment's model with its weights, untouched."""
    spec = session.plan.experiment.model
    device = str(session.engine.device)
    return load_model(
        session.plan.model,
        spec.revision,
        spec.dtype,
        device,
        spec.trust_remote_code,
        session.plan.quantization,
    )
