"""Drift in the reports: shown where it was read, nowhere else, and with the record's numbers."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from made_up_run import HELD_OUT, SIZES, STAGES, make_record
from rich.console import Console

from narrowtune.analysis import NO_SAMPLES, Run, to_dict
from narrowtune.analysis.budget import budget_by_stage
from narrowtune.analysis.depth import depth_by_stage
from narrowtune.analysis.during import drift_during
from narrowtune.analysis.measures import KL
from narrowtune.record import BASE, Record, ReplicateRow
from narrowtune.report import print_terminal, render_html
from narrowtune.report.html import render_pooled_html

POINTS = [(arm, stage) for arm in SIZES for stage in STAGES]


def row(point: tuple[str, str], probe: str, task: str, value: float | None, **more: Any) -> dict:
    return {
        "arm": point[0], "stage": point[1], "probe": probe, "task": task, "at": "all", "part": "",
        "value": value, "unit": "nats", "n": 8, "stderr": 0.1, "reason": "",
    } | more  # fmt: skip


def after_stages() -> Iterator[dict]:
    for place, point in enumerate([(BASE, BASE), *POINTS]):
        for task in HELD_OUT:
            yield row(point, "kl", task, 0.25 * place)
            yield row(point, "top1", task, 1 - 0.1 * place)
            yield row(point, "mass", task, 0.1 + 0.05 * place, part="number")
        if place:
            yield row(point, "moved", "charts", 0.5, part="\u0120<b>seven</b>")
            yield row(point, "moved", "charts", -0.5, part="above")


def others() -> Iterator[dict]:
    for point in POINTS:
        for layer in range(3):
            for branch in ("attention", "mlp"):
                yield row(
                    point, "branch_shift_normed", "charts", 0.5 * layer, part=f"{branch}.{layer}"
                )
                yield row(point, "branch_shift", "charts", 9.0, part=f"{branch}.{layer}")
            yield row(point, "class_push", "charts", -0.25, part=f"mlp.{layer}:number")
            yield row(point, "class_push", "charts", 7.0, part=f"mlp.{layer}:letter")
        yield row(point, "branch_shift", "charts", None, part="layer.3", reason="unknown")
        for step in (10, 1):
            yield row(point, "kl", "charts", 0.1 * step, step=step)
            yield row(point, "kl", "choices", 0.3 * step, step=step)
            yield row(point, "kl", "everyday", None, step=step, reason="NaN")
        for part, value in (
            ("steering", 0.04),
            ("unseen", 0.06 if point[1] == STAGES[0] else 0.05),
        ):
            more = {"budget": 0.05, "action": "interpolate", "within": value <= 0.05}
            yield row(point, "drift", "", value, part=part, **more)


@pytest.fixture(scope="module")
def read() -> Record:
    return make_record(n=20).model_copy(update={"readings": (*after_stages(), *others())})


def figures_of(page: str) -> dict:
    found = re.search(r'<script type="application/json" id="figures">(.*?)</script>', page, re.S)
    return json.loads(found[1])


@pytest.fixture(scope="module")
def page(read: Record) -> str:
    return render_html(read, NO_SAMPLES)


def test_the_page_shows_every_kind_of_reading(page: str) -> None:
    figures = figures_of(page)
    places = re.findall(r'data-figure="([^"]+)"', page)
    assert sorted(places) == sorted(figures)
    assert {
        "drift-map", "drift-models", "drift-tasks", "drift-mass-gate-up", "drift-depth-language",
        "drift-kl-counting",
    } <= set(places)  # fmt: skip
    grid = figures["drift-map"]["data"][0]
    assert (grid["y"], grid["x"]) == ([*SIZES], [*STAGES])
    assert grid["z"] == [[0.25, 0.5], [0.75, 1.0], [1.25, 1.5]]
    mass = figures["drift-mass-language"]["data"][0]
    assert (mass["y"], mass["z"]) == (["number"], [[pytest.approx(5.0), pytest.approx(10.0)]])
    points = figures["drift-models"]["data"]
    assert [trace["name"] for trace in points] == [*SIZES]
    assert points[1]["x"] == [0.75, 1.0]
    assert len(figures["drift-tasks"]["data"][0]["x"]) == len(STAGES) * len(HELD_OUT)


def test_arms_keep_their_colours_in_the_scatter(page: str) -> None:
    figures = figures_of(page)
    colours = {t["name"]: t["marker"]["color"] for t in figures["frontier"]["data"] if "name" in t}
    for name in ("drift-models", "drift-kl-counting"):
        assert {t["name"]: t["marker"]["color"] for t in figures[name]["data"]} == colours


def test_numbers_of_the_correlation_stand_in_caption_and_table(page: str, read: Record) -> None:
    found = to_dict(read)["drift"]["correlations"]
    value = next(o for o in found if (o["probe"], o["level"]) == ("kl", "models"))["spearman"]
    text = f"{value['value']:+.2f}".replace("-", "\N{MINUS SIGN}")
    assert f"Spearman {text}, Pearson" in re.sub(r"\s+", " ", page)
    assert f'<td class="number">{text}</td>' in page
    assert "no interval from 3 arms: it takes 4" in page


def test_tokens_are_escaped_and_their_space_shown(page: str) -> None:
    assert "<code>\N{OPEN BOX}&lt;b&gt;seven&lt;/b&gt;</code> +10.0" in page
    assert "<b>seven" not in page.replace("\\u003cb\\u003e", "")


def test_the_budget_counts_what_nothing_was_steered_by(page: str, read: Record) -> None:
    first, second = budget_by_stage([Run(read)])[:2]
    assert (first.steering, first.unseen, first.kept, first.runs) == (0.04, 0.06, 0, 1)
    assert (second.action, second.kept) == ("interpolate", 1)
    assert page.count("✗ over") == len(SIZES)
    assert page.count("✓ within") == len(SIZES)


def test_layers_are_shown_through_the_norm(read: Record, page: str) -> None:
    first = depth_by_stage([Run(read)])[0]
    assert first.normed
    assert first.shifts["mlp", 2] == 1.0
    assert first.pushes == {("mlp", 0): -0.25, ("mlp", 1): -0.25, ("mlp", 2): -0.25}
    grid = figures_of(page)["drift-depth-language"]["data"][0]
    assert grid["y"][:2] == ["counting · attention", "counting · mlp"]
    assert grid["z"][0] == [0.0, 0.5, 1.0]
    raw = [r for r in read.readings if r["probe"] != "branch_shift_normed"]
    plain = depth_by_stage([Run(read.model_copy(update={"readings": tuple(raw)}))])[0]
    assert (plain.normed, plain.shifts["mlp", 2]) == (False, 9.0)


def test_curves_during_training_are_in_order_of_steps(read: Record) -> None:
    curve = drift_during([Run(read)], KL)["counting"]["gate-up"]
    assert curve == [(1, pytest.approx(0.2)), (10, pytest.approx(2.0))]


def printed(record: Record) -> str:
    out = io.StringIO()
    print_terminal(record, Console(file=out, width=80))
    return out.getvalue()


def test_the_terminal_tells_drift_in_eighty_columns(read: Record) -> None:
    text = printed(read)
    assert max(map(len, text.splitlines())) <= 80
    assert re.search(r"gate-up +counting +1\.250 +50\.0 +\+25\.0 ", text)
    assert "own answers" not in text[text.index("Drift from") : text.index("KL(base")]
    assert re.search(r"top-1 disagreement +[+-]\d\.\d\d", text)
    assert "no interval from 3 arms" in text
    assert re.search(r"attention +counting +interpolate +0\.05 +0\.0400 +0\.0600 +no", text)


def test_without_readings_nothing_is_said_of_drift() -> None:
    record = make_record(n=10)
    for text in (render_html(record, NO_SAMPLES), printed(record)):
        for word in ("Drift from", "how far outputs moved", "Does drift explain", "Drift budget"):
            assert word not in text
    assert to_dict(record)["drift"] is None


def test_rows_of_one_kind_stand_alone(read: Record) -> None:
    only = [r for r in read.readings if r["probe"] == "drift"]
    page = render_html(read.model_copy(update={"readings": tuple(only)}), NO_SAMPLES)
    assert "Drift budget" in page
    assert "how far outputs moved" not in page
    during = [r for r in read.readings if "step" in r]
    page = render_html(read.model_copy(update={"readings": tuple(during)}), NO_SAMPLES)
    assert "while a skill was taught" in page
    assert "Does drift explain" not in page


def test_replicates_share_one_page(read: Record, tmp_path: Path) -> None:
    experiment = read.experiment.model_copy(update={"seeds": (0, 1)})
    names = [one.name for one in experiment.replicates]
    rows = tuple(
        ReplicateRow(name=name, order=STAGES, seed=seed, status="complete", digest="d")
        for seed, name in enumerate(names)
    )
    whole = read.model_copy(update={"experiment": experiment, "replicates": rows})
    page = render_pooled_html(whole, [Run(read), Run(read, seed=1)])
    figures = figures_of(page)
    assert sorted(re.findall(r'data-figure="([^"]+)"', page)) == sorted(figures)
    assert len(figures["drift-models"]["data"][0]["x"]) == 2 * len(STAGES)
    assert "2 of 2" in page
    assert "how far outputs moved" in render_pooled_html(whole, [Run(read)])
    assert "how far outputs moved" not in render_pooled_html(whole, [])
