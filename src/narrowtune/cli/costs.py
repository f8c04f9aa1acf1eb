"""What `plan` says of memory and time."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from narrowtune.runner.cost import ArmCost, Costs
    from narrowtune.runner.fitting import Way

# Heading -> what is summed below it.
_SHOWN = {
    "weights": ("weights",),
    "trained": ("masters", "gradients", "optimiser", "methods"),
    "activations": ("activations",),
    "logits": ("logits",),
    "rest": ("kept_batches", "process", "allocator"),
}


def costs_to_dict(costs: Costs) -> dict[str, Any]:
    """What is predicted, in bytes and seconds."""
    from narrowtune.runner.fitting import ways_to_fit

    device, rows = costs.device(), []
    for arm in costs.plan.arms:
        cost = costs.of(arm)
        ways = [] if costs.fits(cost) else ways_to_fit(costs, arm)
        told = [{"set": way.words, "fits": way.fits, **_numbers(way.cost)} for way in ways]
        rows.append({"arm": arm.name, "fits": costs.fits(cost), **_numbers(cost), "ways": told})
    return {
        "device": device.name,
        "memory_bytes": device.memory,
        "dtype": str(costs.dtype).removeprefix("torch."),
        "speeds": costs.how,
        "arms": rows,
    }


def print_costs(costs: Costs) -> None:
    """A table of arms, and below it what would make those fit that do not."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Column, Table

    from narrowtune.report.units import duration, memory
    from narrowtune.runner.fitting import ways_to_fit

    named = Column("arm", overflow="fold")
    columns = (Column(name, no_wrap=True) for name in ("peak", *_SHOWN, "time"))
    table = Table(named, *columns, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    found = [(arm, costs.of(arm)) for arm in costs.plan.arms]
    for arm, cost in found:
        sums = [sum(cost.parts.get(kind, 0) for kind in kinds) for kinds in _SHOWN.values()]
        takes = "?" if cost.seconds is None else duration(cost.seconds)
        table.add_row(arm.name, memory(cost.peak), *map(memory, sums), takes)
    console, device = Console(), costs.device()
    write = partial(console.print, markup=False, highlight=False)
    dtype = str(costs.dtype).removeprefix("torch.")
    write(f"predicted for {device.name}, {memory(device.memory)} usable, in {dtype}:")
    console.print(table)
    write(f"times are estimates ({costs.how}) of training alone, scoring not counted")
    for arm, cost in found:
        if cost.missing:
            why = f"its step can't be rehearsed: {cost.missing}"
            write(f"note: {arm.name}: activations and time are not known, {why}")
        if not costs.fits(cost):
            write(f"{arm.name} does not fit: {memory(cost.peak)} of {memory(device.memory)}")
            for way in ways_to_fit(costs, arm):
                write(f"  {_said(way)}")


def _said(way: Way) -> str:
    from narrowtune.report.units import memory

    return f"{way.words} -> {memory(way.cost.peak)}" + ("" if way.fits else ", still too much")


def _numbers(cost: ArmCost) -> dict[str, Any]:
    return {
        "peak_bytes": cost.peak,
        "parts": dict(cost.parts),
        "seconds": cost.seconds,
        "micro_batch_size": cost.micro_batch_size,
        **({"missing": cost.missing} if cost.missing else {}),
    }
