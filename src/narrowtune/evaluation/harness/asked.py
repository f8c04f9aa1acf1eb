"""What is asked of a public harness."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

HARNESSES: dict[str, str] = {"lm-eval": "lm_eval", "lmms-eval": "lmms_eval"}
"""Each harness's name in an experiment, and the package that it is."""


@dataclass(frozen=True)
class Asked:
    """A task of a harness and how to run it.

    Attributes:
        harness: A key of `HARNESSES`.
        task: The task's, or group's, name there.
        metric: Which of the task's metrics is the score, `METRIC` or `METRIC,FILTER` as the
            harness itself writes them; the usual one if None.
        limit: Only the first so many samples (of each task of a group).
        num_fewshot: Solved examples before each question; the task's own number if None.
        chat_template: Whether lm-eval writes questions in the model's chat template. lmms-eval
            always does.
        max_new_tokens: The longest answer; the task's own if None.
        include_path: A folder with task YAMLs of the user's, searched first.
        batch_size: Requests at once; changes speed and memory, not the score.
    """

    harness: str
    task: str
    metric: str | None = None
    limit: int | None = None
    num_fewshot: int | None = None
    chat_template: bool = False
    max_new_tokens: int | None = None
    include_path: Path | None = None
    batch_size: int = 64

    @property
    def source(self) -> str:
        """Harness and task in one word, as records and the command line write it."""
        return f"{self.harness}:{self.task}"
