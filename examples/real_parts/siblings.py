"""Puts the SmolLM2 example's folder on the path: its scripts fetch what this example builds on."""

from __future__ import annotations

import sys
from pathlib import Path

SMOLLM2 = Path(__file__).resolve().parents[1] / "smollm2"

# Last, since both examples have a prepare_data.
if str(SMOLLM2) not in sys.path:
    sys.path.append(str(SMOLLM2))
