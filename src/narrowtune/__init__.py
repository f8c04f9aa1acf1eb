"""Teach a language or multimodal model a new skill without erasing the old ones, and prove it.

The same words as on the command line::

    import narrowtune as nt

    anatomy = nt.Anatomy.of(model)
    selection = anatomy.select(["gate-up"])
    record = nt.run(nt.plan(nt.load_experiment("experiment.yaml")), out="runs/first")
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from narrowtune.errors import InputError, NarrowTuneError, RunFailed

if TYPE_CHECKING:
    from narrowtune.anatomy import Anatomy, Selection, release
    from narrowtune.delta import Delta, Ledger, apply_delta, load, read_delta
    from narrowtune.experiment import Experiment, load_experiment, parse_experiment
    from narrowtune.models.skeleton import load_config, resolve
    from narrowtune.monitor import DriftMonitor
    from narrowtune.record import Record, read_record
    from narrowtune.report import headline, write_html
    from narrowtune.runner import Observer, Options, Plan, plan, run

__version__ = version("narrowtune")

# Loaded when first asked for: `import narrowtune` takes no torch.
_HOMES = {
    "Anatomy": "anatomy",
    "Selection": "anatomy",
    "release": "anatomy",
    "Delta": "delta",
    "DriftMonitor": "monitor",
    "Ledger": "delta",
    "apply_delta": "delta",
    "load": "delta",
    "read_delta": "delta",
    "Experiment": "experiment",
    "load_config": "models.skeleton",
    "resolve": "models.skeleton",
    "load_experiment": "experiment",
    "parse_experiment": "experiment",
    "Record": "record",
    "read_record": "record",
    "headline": "report",
    "write_html": "report",
    "Observer": "runner",
    "Options": "runner",
    "Plan": "runner",
    "plan": "runner",
    "run": "runner",
}

__all__ = [
    "Anatomy",
    "Delta",
    "DriftMonitor",
    "Experiment",
    "InputError",
    "Ledger",
    "NarrowTuneError",
    "Observer",
    "Options",
    "Plan",
    "Record",
    "RunFailed",
    "Selection",
    "__version__",
    "apply_delta",
    "headline",
    "load",
    "load_config",
    "load_experiment",
    "parse_experiment",
    "plan",
    "read_delta",
    "read_record",
    "release",
    "resolve",
    "run",
    "write_html",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'narrowtune' has no attribute {name!r}")
    return getattr(import_module(f"narrowtune.{_HOMES[name]}"), name)
