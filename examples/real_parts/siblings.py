"""The SmolLM2 example's scripts, which already fetch and write what this example needs."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

SMOLLM2 = Path(__file__).resolve().parents[1] / "smollm2"


def sibling(name: str) -> ModuleType:
    """One of that folder's files as a module."""
    if str(SMOLLM2) not in sys.path:
        sys.path.append(str(SMOLLM2))  # last: both folders have a prepare_data
    return importlib.import_module(name)
