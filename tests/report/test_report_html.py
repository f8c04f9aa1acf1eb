"""The HTML file: self-contained, escaped, whole, and honest about unfinished runs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from made_up_run import STAGES, make_record, write_run
from plotly.offline import get_plotlyjs

from narrowtune.analysis import NO_SAMPLES, Sample, Samples, headline
from narrowtune.record import LedgerRow, Record
from narrowtune.report import read_samples, render_html, write_html


def without_plotly(page: str) -> str:
    """The page less the inlined library, which is large and full of strings."""
    library = get_plotlyjs()
    assert page.count(library) == 1
    return page.replace(library, "")


def figures_of(page: str) -> dict:
    found = re.search(r'<script type="application/json" id="figures">(.*?)</script>', page, re.S)
    return json.loads(found[1])


@pytest.fixture(scope="module")
def page(run_folder: Path) -> str:
    from narrowtune.record import read_record

    record = read_record(run_folder)
    return write_html(record, run_folder / "report.html").read_text(encoding="utf-8")


def test_nothing_in_the_file_points_outside(page: str) -> None:
    rest = without_plotly(page)
    assert not re.search(r"""\b(src|href|srcset|action|poster|data)\s*=\s*["']?""", rest)
    assert "url(" not in rest
    assert "@import" not in rest
    assert not re.search(r"(https?:)?//\w", re.sub(r"^\s*// .*$", "", rest, flags=re.M))


def test_the_browser_is_told_to_refuse_every_request(page: str) -> None:
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)[1]
    allowed = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert allowed["default-src"] == "'none'"
    # Pictures only from the page itself: plotly draws heat maps as data URLs.
    assert allowed["img-src"] == "data: blob:"
    assert page.index("Content-Security-Policy") < page.index("<style>") < page.index("<script>")
    assert set(allowed) == {"default-src", "script-src", "style-src", "img-src"}


def test_every_figure_has_its_place_and_every_place_its_figure(page: str) -> None:
    places = re.findall(r'data-figure="([^"]+)"', page)
    assert sorted(places) == sorted(figures_of(page))
    assert {"frontier", "through-stages", "matrix-gate-up", "loss-counting"} <= set(places)


def test_colours_that_figures_name_are_in_the_style_sheet(page: str) -> None:
    named = set(re.findall(r"var\((--[\w-]+)\)", json.dumps(figures_of(page))))
    light, _, dark = page.partition("prefers-color-scheme: dark")
    for name in named:
        assert f"{name}:" in light
        assert name in ("--sans", "--mono") or f"{name}:" in dark


def test_numbers_of_the_record_are_on_the_page(page: str, record: Record, run_folder: Path) -> None:
    samples = read_samples(run_folder, record)
    told = headline(record, samples)
    assert told.split(",")[0] in page
    for score in record.scores:
        assert f'<td class="number">{100 * score.value:.1f}</td>' in page
    for file in record.data:
        assert file.sha256 in page
    assert "paired on the same samples" in page
    assert "learning_rate: 0.001" in page


def test_hover_tells_values_interval_and_n(page: str) -> None:
    figures = figures_of(page)
    point = figures["frontier"]["data"][1]
    assert re.search(r"n = 120, paired", point["hovertext"][0])
    assert re.search(r"\[[-+]\d+\.\d, [-+]\d+\.\d\]", point["hovertext"][0])
    assert point["error_x"]["array"][0] > 0
    assert point["error_y"]["arrayminus"][0] > 0
    cell = figures["matrix-language"]["data"][0]["hovertext"][0][1]
    assert "n = 60" in cell
    assert "change" in cell


def test_an_arm_keeps_its_colour_through_all_figures(page: str) -> None:
    figures = figures_of(page)
    colours = {
        trace["name"]: trace["marker"]["color"]
        for trace in figures["frontier"]["data"]
        if "name" in trace
    }
    assert len(set(colours.values())) == 3
    for trace in figures["through-stages"]["data"] + figures["loss-counting"]["data"]:
        assert trace["line"]["color"] == colours[trace["name"]]


def test_user_text_is_escaped_everywhere() -> None:
    evil = "</script><script>alert('x')</script><img src=x onerror=alert(1)>"
    record = make_record(arms=("attention",), n=2)
    data = record.data[0].model_copy(update={"path": evil})
    stages = tuple(stage.model_copy(update={"test": evil}) for stage in record.experiment.stages)
    model = record.experiment.model.model_copy(update={"id": evil})
    record = record.model_copy(
        update={
            "status": "failed", "error": evil, "data": (data,), "environment": {evil: evil},
            "plan": {"note": evil}, "digest": evil,
            "experiment": record.experiment.model_copy(update={"model": model, "stages": stages}),
            "ledger": (LedgerRow(arm="attention", stage="counting", held=False, frozen=1,
                                 changed=(evil,)),),
        }
    )  # fmt: skip
    rows = {
        (*point, "captions"): {evil: Sample(evil, f"{evil}{index}", (evil,), float(index))}
        for index, point in enumerate([("base", "base"), ("attention", STAGES[-1])])
    }
    page = without_plotly(render_html(record, Samples(rows)))
    assert evil not in page
    assert "<script>alert" not in page
    assert "<img" not in page
    assert "&lt;script&gt;alert" in page


@pytest.mark.parametrize("status", ["running", "interrupted", "failed"])
def test_an_incomplete_record_renders_with_a_banner(status: str) -> None:
    record = make_record(n=10)
    kept = {("base", "base"), ("language", STAGES[0])}
    cut = record.model_copy(
        update={
            "status": status,
            "error": "the loss became NaN at step 7" if status == "failed" else None,
            "scores": tuple(row for row in record.scores if (row.arm, row.stage) in kept),
            "cost": record.cost[:1],
            "ledger": record.ledger[:1],
            "losses": record.losses[:30],
        }
    )
    page = without_plotly(render_html(cut, NO_SAMPLES))
    assert f"This run is not complete: {status}." in page
    assert ("loss became NaN" in page) == (status == "failed")
    assert "1 of 2 stages" in page
    assert sorted(re.findall(r'data-figure="([^"]+)"', page)) == sorted(figures_of(page))


def test_a_record_with_nothing_but_its_experiment_renders() -> None:
    full = make_record(n=2)
    bare = Record(status="failed", error="no", experiment=full.experiment, digest="d")
    assert "nothing to compare" in render_html(bare, NO_SAMPLES)


def test_one_arm_and_no_held_out_task_render(tmp_path: Path) -> None:
    record = write_run(tmp_path, arms=("gate-up",), n=10)
    experiment = record.experiment.model_copy(update={"held_out": ()})
    targets = tuple(score for score in record.scores if score.task in STAGES)
    record = record.model_copy(update={"experiment": experiment, "scores": targets})
    page = without_plotly(write_html(record, tmp_path / "report.html").read_text("utf-8"))
    assert "what it kept is unknown" in page
    assert "Narrow against wide" not in page
    assert 'data-figure="frontier"' not in page


def test_changed_names_stand_in_the_ledger() -> None:
    record = make_record(arms=("gate-up",), n=2)
    row = LedgerRow(arm="gate-up", stage="counting", held=False, frozen=9, changed=("model.a.b",))
    page = render_html(record.model_copy(update={"ledger": (row,)}), NO_SAMPLES)
    assert "✗ 1 changed" in page
    assert "<li>model.a.b</li>" in page
    assert "The ledger is broken" in page


def test_arms_are_told_apart_by_colour_and_marker_together() -> None:
    from narrowtune.report.figures import arm_marker

    looks = {(one["color"], one["symbol"]) for one in (arm_marker(index, 9) for index in range(30))}
    assert len(looks) == 30
