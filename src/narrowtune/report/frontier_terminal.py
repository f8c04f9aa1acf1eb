"""A frontier in a terminal: tables that fit 80 columns, then what follows from them."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from narrowtune.analysis.families import Family, Frontier, FrontierPoint, Price
from narrowtune.analysis.frontier_wording import sentences
from narrowtune.analysis.wording import bounds, counted, signed
from narrowtune.report.frontier import matched, plain_range, priced_level
from narrowtune.report.tables import plain_table
from narrowtune.report.units import count, duration

NOTE = (
    "Learning and held-out change in percentage points from the untouched base; brackets hold 95 % "
    "intervals. Along each family's cells that no other of its cells beats on both axes, straight "
    "between neighbours. ≥: the family's first cell lies beyond the level, and kept that much. "
    "Area: share of the base's held-out score kept, mean over learning from 0 to the best, levels "
    "not reached counting 0. docs/frontier.md says what none of this can show."
)


def print_frontier(found: Frontier, console: Console) -> None:
    """Print all that a frontier says."""
    for sentence in sentences(found):
        console.print(Text(sentence))
    console.print(_matched(found))
    console.print(_cost(found))
    if found.families[0].learned_at:
        console.print(_drift(found))
    console.print(_cells(found))
    for arm, reason in found.left_out.items():
        console.print(Text(f"Left out: {arm}: {reason}."))
    if found.runs > 1:
        console.print(Text(f"Means over {counted(found.runs, 'replicate')}.", style="dim"))
    console.print(Text(NOTE, style="dim"))


def _matched(found: Frontier) -> Table:
    table = plain_table("Held-out change at matched learning", "family")
    table.add_column("most learned", justify="right")
    for level in found.levels:
        table.add_column(f"at {100 * level:g} %", justify="right")
    for family in found.families:
        most = max(family.points, key=lambda point: point.learning.value).learning
        cells = [_lines(*matched(one)) for one in family.kept_at]
        table.add_row(Text(family.name), _lines(signed(most.value), bounds(most)), *cells)
    return table


def _cost(found: Frontier) -> Table:
    level = priced_level(found)
    table = plain_table(f"Area, and the cheapest cell that learns {100 * level:g} %", "family")
    table.add_column("area", justify="right")
    table.add_column("cell", overflow="fold")
    for name in ("training", "tokens"):
        table.add_column(name, justify="right")
    for family in found.families:
        price = next((one for one in family.prices if one.level == level), None)
        area = _lines(*plain_range(family.area))
        table.add_row(Text(family.name), area, *_price(family, price))
    return table


def _price(family: Family, price: Price | None) -> tuple[Text, str, str]:
    if price is None:
        return Text("none"), "-", "-"
    cell = price.arm.removeprefix(f"{family.name}@")
    return Text(cell), duration(price.seconds), count(price.tokens)


def _drift(found: Frontier) -> Table:
    table = plain_table("Learning at matched drift (KL, nats per token)", "family")
    for one in found.families[0].learned_at:
        table.add_column(f"at {one.level:.3g}", justify="right")
    for family in found.families:
        cells = [_lines(*matched(one)) for one in family.learned_at]
        table.add_row(Text(family.name), *cells)
    return table


def _cells(found: Frontier) -> Table:
    table = plain_table("Cells", "cell")
    for name in ("learning", "held-out", "KL", "training"):
        table.add_column(name, justify="right")
    table.add_column("")
    for family in found.families:
        for row in _cell_rows(family):
            table.add_row(*row)
    return table


def _cell_rows(family: Family) -> Iterator[tuple[Text | str, ...]]:
    for point in family.points:
        yield (
            Text(point.arm),
            _lines(signed(point.learning.value), bounds(point.learning)),
            _lines(signed(point.kept.value), bounds(point.kept)),
            "-" if point.drift is None else f"{point.drift:.3f}",
            _seconds(point),
            "" if point.on_frontier else "beaten",
        )


def _seconds(point: FrontierPoint) -> str:
    return "-" if point.seconds is None else duration(point.seconds)


def _lines(value: str, interval: str) -> Text:
    return Text(f"{value}\n{interval}" if interval else value)
