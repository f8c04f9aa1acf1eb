"""From what is asked to a task that is ready, or to an error before anything was trained."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from narrowtune.errors import InputError, nearest
from narrowtune.evaluation.harness.asked import HARNESSES, Asked

if TYPE_CHECKING:
    from narrowtune.evaluation.harness.task import HarnessTask
    from narrowtune.models.processing import Processing


def open_task(asked: Asked, processing: Processing) -> HarnessTask:
    """The harness's task, its data loaded, every request to the model written once.

    Raises:
        InputError: The harness is not installed, it has no such task or metric, the task's data
            cannot be had here, or the task asks for what the model cannot give.
    """
    if asked.harness not in HARNESSES:
        raise InputError(f"no harness {asked.harness!r}; {nearest(asked.harness, HARNESSES)}")
    if find_spec(HARNESSES[asked.harness]) is None:
        raise InputError(
            f"{asked.source} needs the package {HARNESSES[asked.harness]}, which is not "
            f"installed: pip install 'narrowtune[{asked.harness}]'"
        )
    if asked.include_path is not None and not asked.include_path.is_dir():
        raise InputError(f"{asked.source}: include_path {asked.include_path} is no folder")
    from narrowtune.evaluation.harness.undisturbed import own_random_numbers

    with own_random_numbers():
        if asked.harness == "lm-eval":
            from narrowtune.evaluation.harness.lm_eval import open_lm_eval

            return open_lm_eval(asked, processing)
        from narrowtune.evaluation.harness.lmms_eval import open_lmms_eval

        return open_lmms_eval(asked, processing)
