"""What changed and the proof of what did not."""

from narrowtune.delta.ledger import changed, fingerprint
from narrowtune.delta.tensors import load_tensors, save_tensors

__all__ = ["changed", "fingerprint", "load_tensors", "save_tensors"]
