"""Drift seen, and kept within a budget, in anyone's training with transformers or TRL."""

from narrowtune.monitor.callback import DriftMonitor

__all__ = ["DriftMonitor"]
