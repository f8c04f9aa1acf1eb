"""The report as one self-contained HTML file that asks the network for nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from narrowtune.analysis import Estimate, Runs, Samples
from narrowtune.analysis.correlation import Coefficient
from narrowtune.analysis.explaining import Explained
from narrowtune.analysis.wording import bounds, signed
from narrowtune.record import Record, write_text_atomically
from narrowtune.report.drift import coefficient
from narrowtune.report.explained_page import explained_values
from narrowtune.report.explaining import share_back
from narrowtune.report.page import page_values
from narrowtune.report.pooled import pooled_values
from narrowtune.report.predictions import read_runs, read_samples
from narrowtune.report.units import count, duration, memory, share


def write_html(record: Record, path: Path, samples: Samples | None = None) -> Path:
    """Write the report to `path`, replacing an older one.

    Predictions are read from the folder of `path` unless they are given, and so is what `explain`
    found there.
    """
    explained = explained_values(path.parent, record)
    if record.replicates:
        page = render_pooled_html(record, read_runs(path.parent, record), explained)
    else:
        given = read_samples(path.parent, record) if samples is None else samples
        page = render_html(record, given, explained)
    write_text_atomically(path, page)
    return path


def render_pooled_html(record: Record, runs: Runs, explained: dict[str, Any] | None = None) -> str:
    """The page of a repeated experiment, as text."""
    return _rendered("replicates.html.j2", pooled_values(record, runs), explained)


def render_html(record: Record, samples: Samples, explained: dict[str, Any] | None = None) -> str:
    """The page as text. Its content security policy forbids every request, plotly's too."""
    return _rendered("report.html.j2", page_values(record, samples), explained)


def write_frontier_html(record: Record, frontier: dict[str, Any], path: Path) -> Path:
    """Write a page with the frontier alone, of one run or several together, to `path`."""
    values = {
        "model": record.experiment.model.id.rstrip("/").rpartition("/")[2],
        "frontier": frontier,
        "figures": frontier["figures"],
        "version": record.environment.get("packages", {}).get("narrowtune", ""),
    }
    write_text_atomically(path, _rendered("frontier_page.html.j2", values, None))
    return path


def _rendered(name: str, values: dict[str, Any], explained: dict[str, Any] | None) -> str:
    figures = values["figures"] | (explained["figures"] if explained else {})
    more = {"plotly": get_plotlyjs(), "explained": explained, "figures": figures}
    return _templates().get_template(name).render(**values | more)


def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("narrowtune.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {
        "points": _points,
        "bounds": _bounds,
        "percent": _percent,
        "typeset": _typeset,
        "token": _token,
        "share_back": _share_back,
        "coefficient": _coefficient,
        "count": count,
        "duration": duration,
        "memory": memory,
    }
    environment.globals |= {"share": share}
    return environment


def _coefficient(found: Coefficient | None) -> str:
    return _typeset(coefficient(found))


def _points(value: float) -> str:
    return _typeset(signed(value))


def _bounds(estimate: Estimate) -> str:
    return _typeset(bounds(estimate))


def _share_back(found: Explained) -> str:
    return _typeset(share_back(found))


def _typeset(text: str) -> str:
    """The text with true minus signs before its numbers; hyphens in names stay."""
    return re.sub(r"(?<![\w.+-])-(?=\d)", "\N{MINUS SIGN}", text)


def _token(name: str) -> str:
    """A token as it reads, the marks of a space and of a line end shown."""
    for mark, shown in (("\u0120", "\u2423"), ("\u2581", "\u2423"), ("\u010a", "\u21b5")):
        name = name.replace(mark, shown)
    return name


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"
