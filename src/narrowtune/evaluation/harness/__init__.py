"""Tasks of public harnesses, run by the harness itself on a model in memory. No torch at import.

`lm_eval` and `lmms_eval` are imported in their adapters alone.
"""

from narrowtune.evaluation.harness.asked import HARNESSES, Asked
from narrowtune.evaluation.harness.opening import open_task
from narrowtune.evaluation.harness.task import HarnessTask

__all__ = ["HARNESSES", "Asked", "HarnessTask", "open_task"]
