"""Measured comparisons, one file each; `make bench` runs them all."""
