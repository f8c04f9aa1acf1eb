"""Runs every comparison of this folder; the one with other trainers, which is long, last."""

from benchmarks import (
    choices,
    generation,
    looks,
    memory_knobs,
    packing,
    peers,
    slices,
    start,
    supervised_head,
)

supervised_head.main()
slices.main()
choices.main()
generation.main()
looks.main()
packing.main()
memory_knobs.main()
start.main()
peers.main()
