"""What a harness will ask a model, as one hash."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def digest_of(requests: Any) -> str:
    """SHA-256 over requests: their texts, settings, expected answers and pictures."""
    text = json.dumps(requests, sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: Any) -> Any:
    """What JSON can't hold: pictures by their pixels, arrays as lists, anything else by kind."""
    if hasattr(value, "tobytes") and hasattr(value, "size"):
        whole = hashlib.sha256(value.tobytes()).hexdigest()
        return [str(getattr(value, "mode", getattr(value, "dtype", ""))), str(value.size), whole]
    if hasattr(value, "tolist"):
        return value.tolist()
    return type(value).__qualname__
