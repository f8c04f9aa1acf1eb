"""Runs every comparison of this folder."""

from benchmarks import choices, looks, slices, supervised_head

supervised_head.main()
slices.main()
choices.main()
looks.main()
