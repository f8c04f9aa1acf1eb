"""Runs every comparison of this folder; the one with other trainers, which is long, last."""

from benchmarks import (
    choices,
    generation,
    kept_graph,
    looks,
    memory_knobs,
    packing,
    peers,
    quantized_base,
    slices,
    start,
    supervised_head,
)

supervised_head.main()
slices.main()
choices.main()
generation.main()
kept_graph.main()
looks.main()
packing.main()
memory_knobs.main()
quantized_base.main()
start.main()
peers.main()
