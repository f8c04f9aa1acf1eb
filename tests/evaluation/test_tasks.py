"""What a task is refused for, and the error of its mean."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narrowtune.errors import InputError
from narrowtune.evaluation import prepare, standard_error


def test_standard_error_by_hand():
    assert standard_error([1.0, 0.0, 0.0, 1.0]) == pytest.approx(math.sqrt(0.5 * 0.5 / 3))
    assert standard_error([1.0] * 9 + [0.0]) == pytest.approx(math.sqrt(0.9 * 0.1 / 9))
    assert standard_error([0.2, 0.4, 0.9]) == pytest.approx(0.2081666)
    assert standard_error([1.0, 1.0, 1.0]) == 0.0
    assert standard_error([1.0]) == standard_error([0.0]) == 0.5


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_standard_error_is_never_above_that_of_one_sample(scores):
    assert 0.0 <= standard_error(scores) <= 0.5 + 1e-12


def test_standard_error_is_the_spread_of_repeated_means():
    draw = random.Random(0)
    runs = [[float(draw.random() < 0.3) for _ in range(50)] for _ in range(2000)]
    means = [sum(run) / 50 for run in runs]
    mean = sum(means) / len(means)
    spread = math.sqrt(sum((m - mean) ** 2 for m in means) / len(means))
    assert sum(map(standard_error, runs)) / len(runs) == pytest.approx(spread, rel=0.03)


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"metric": "nubmer"}, "'number'"),
        ({"scoring": "likelyhood"}, "'likelihood'"),
        ({"metric": "clock"}, "t.jsonl:1: metric 'clock' finds no time as HH:MM"),
        ({"scoring": "likelihood"}, "`choices`"),
        ({"max_new_tokens": 500}, "leaves no room"),
    ],
)
def test_what_cannot_be_scored_is_told_before_anything_runs(tiny, questions, how, told):
    with pytest.raises(InputError, match=told.replace("(", r"\(")):
        prepare(tiny("llama").processing, questions(2, False), how)


def test_a_task_without_examples_is_refused(tiny):
    with pytest.raises(InputError, match="no examples"):
        prepare(tiny("llama").processing, [], {})


def test_many_problems_are_counted_not_all_shown(tiny, questions):
    rows = [replace(row, references=("often",)) for row in questions(30, False)]
    with pytest.raises(InputError) as told:
        prepare(tiny("llama").processing, rows, {"metric": "number"})
    assert len(told.value.problems) == 21 and told.value.problems[-1] == "and 10 more problems"


def test_metrics_and_results_need_no_torch():
    program = "import sys, narrowtune.evaluation; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
