"""Runs every comparison of this folder."""

from benchmarks import slices, supervised_head

supervised_head.main()
slices.main()
