"""What changed, small enough to keep, and the proof of what did not."""

from narrowtune.delta.delta import Delta, apply_delta, apply_deltas, dtype_of, read_delta
from narrowtune.delta.ledger import Ledger, Snapshot, changed, fingerprint, model_digest
from narrowtune.delta.line import Line, kept, largest_share
from narrowtune.delta.load import load
from narrowtune.delta.tensors import load_tensors, save_tensors
from narrowtune.delta.verify import Check, verify

__all__ = [
    "Check",
    "Delta",
    "Ledger",
    "Line",
    "Snapshot",
    "apply_delta",
    "apply_deltas",
    "changed",
    "dtype_of",
    "fingerprint",
    "kept",
    "largest_share",
    "load",
    "load_tensors",
    "model_digest",
    "read_delta",
    "save_tensors",
    "verify",
]
