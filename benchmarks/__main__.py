"""Runs every comparison of this folder; the one with other trainers, which is long, last."""

from benchmarks import choices, looks, peers, slices, supervised_head

supervised_head.main()
slices.main()
choices.main()
looks.main()
peers.main()
