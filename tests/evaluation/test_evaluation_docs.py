"""The tables of docs/evaluation.md, run."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path

import pytest

from narrowtune.evaluation import METRICS

PAGE = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
SECTION = re.compile(r"^### `(\w+)` \((\S+)\)(.*?)(?=^##)", re.MULTILINE | re.DOTALL)
SECTIONS = {match[1]: match for match in SECTION.finditer(PAGE)}


def rows(columns):
    return [
        (name, *(cell.strip().strip("`") for cell in line.strip("|").split("|")))
        for name, section in SECTIONS.items()
        for line in section[3].splitlines()
        if line.startswith("| `") and line.count("|") == columns + 1
    ]


def test_every_metric_has_its_section_and_version():
    assert {name: match[2] for name, match in SECTIONS.items()} == {
        name: metric.version for name, metric in METRICS.items()
    }
    assert len(rows(2)) >= 35 and len(rows(3)) >= 40


@pytest.mark.parametrize(("name", "answer", "read"), rows(2))
def test_answers_are_read_as_the_page_says(name, answer, read):
    value = METRICS[name].read(answer, ())
    wanted = {"nothing": None}.get(
        read, Decimal(read) if name == "number" and read[-1].isdigit() else read
    )
    assert value == wanted


@pytest.mark.parametrize(("name", "prediction", "reference", "score"), rows(3))
def test_answers_score_as_the_page_says(name, prediction, reference, score):
    given = METRICS[name].score(prediction, [reference])
    assert given == pytest.approx(float(score), abs=0.005)


def test_the_example_with_known_choices():
    assert METRICS["option"].read("A robin", ("crow", "robin", "black bird")) == "b"
