"""Runs every comparison of this folder."""

from benchmarks import supervised_head

supervised_head.main()
