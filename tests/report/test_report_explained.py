"""What `explain` found, on the page: its figure, its tables, and hidden where it was not asked."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from rich.console import Console

from narrowtune.analysis.estimate import Estimate
from narrowtune.analysis.explaining import Explained, Guesses
from narrowtune.record.explanation import Corrected, Explanation
from narrowtune.report.explained_page import loss_bars
from narrowtune.report.explaining import ALL, Finding, print_explanation, share_back


def estimate(value: float, reach: float = 0.05) -> Estimate:
    return Estimate(value, value - reach, value + reach, 100, 2, "paired")


def finding(stage: str, task: str, back: float, left: float, base: float = 0.0) -> Finding:
    found = Explained(
        "offsets", estimate(back + left), estimate(back), estimate(left), estimate(base), (0.7, 0.8)
    )
    lower = [estimate(value) for value in (0.2, 0.1, 0.1, base)]
    above = Explained("offsets", *lower, (-0.05, 1.1))
    guesses = Guesses(0.2, 0.2, 0.0, 0.2)
    return Finding("gate-up", stage, task, 1, replace(found, above=above, guesses=guesses))


def test_a_bar_is_made_of_what_comes_back_and_what_is_left() -> None:
    figure = loss_bars([finding("counting", ALL, 0.3, 0.1), finding(ALL, ALL, 0.2, 0.2)])
    back, left = figure["data"]
    assert back["y"] == ["gate-up, counting", "gate-up, mean"]
    assert back["x"] == pytest.approx([30, 20])
    assert left["x"] == pytest.approx([10, 20])
    assert back["hovertext"][0] == "comes back +30.0 points [+25.0, +35.0]"
    json.dumps(figure)


def test_the_tables_fit_a_terminal_and_mark_what_proves_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    about = Explanation(
        digest="x",
        calibration=8,
        tasks=(
            Corrected(
                task="charts", version="exact/1", calibration=8, scored=20, yes_no=False,
                told={"offsets": "3 classes"}, unavailable={"examples": "too long"},
            ),
        ),
        left_out={"arc": "a harness asks it in its own way"},
    )  # fmt: skip
    rows = [
        finding("counting", ALL, 0.3, 0.1),
        finding("counting", "charts", 0.3, 0.1, base=-0.4),
    ]
    print_explanation(about, rows, [], Console(width=80))
    shown = capsys.readouterr().out
    assert "gate-up: mean over held-out tasks" in shown
    assert "-40.0* †" in shown
    assert "+30.0*" in shown
    assert "share of lost" in shown and "75 % [70, 80]" in shown
    assert "guessing" in shown and "50 % [-5, 110]" in shown
    assert "charts: no examples: too long" in shown
    assert "arc: left out" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_as_json_the_shares_stand_beside_what_they_are_shares_of() -> None:
    row = finding("counting", ALL, 0.3, 0.1).to_dict()
    assert row["share"] == pytest.approx(0.75)
    assert row["above"]["share"] == pytest.approx(0.5)
    assert row["guesses"]["base_corrected"] == 0.2
    old = Finding("a", "s", ALL, 1, replace(finding("s", ALL, 0.3, 0.1).found, above=None))
    assert old.to_dict()["above"] is None
    json.dumps(row)


def test_nothing_clearly_lost_has_no_share() -> None:
    none = Explained("offsets", *[estimate(0.01)] * 4)
    assert share_back(none) == "-"
