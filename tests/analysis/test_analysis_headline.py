"""The sentence says who won, whoever won, and never more than the intervals allow."""

from __future__ import annotations

import pytest

from narrowtune.analysis import headline
from narrowtune.experiment import ArmSpec
from narrowtune.record import LedgerRow

BASE = {"s1": 0.1, "s2": 0.1, "h1": 0.8, "h2": 0.8}


def run(s1: float, s2: float, held_out: float) -> dict[str, float]:
    return {"s1": s1, "s2": s2, "h1": held_out, "h2": held_out}


def test_a_narrow_arm_that_keeps_more_and_learns_as_much_is_ahead(make_record) -> None:
    text = headline(
        make_record(
            {
                ("base", "base"): BASE,
                ("wide", "s1"): run(0.9, 0.1, 0.3),
                ("wide", "s2"): run(0.7, 0.9, 0.4),
                ("narrow", "s1"): run(0.89, 0.1, 0.8),
                ("narrow", "s2"): run(0.8, 0.89, 0.79),
            }
        )
    )
    assert text.startswith("wide learned most, +80.0 points [")
    assert "though not clearly more than narrow" in text
    assert "narrow kept most and shows no clear change on the mean of 2 held-out tasks" in text
    assert "narrow kept 39.0 more and learned 1.0 less (within the noise)" in text
    assert "So narrow came out ahead." in text


def test_a_narrow_arm_that_does_not_win_is_said_not_to(make_record) -> None:
    text = headline(
        make_record(
            {
                ("base", "base"): BASE,
                ("wide", "s1"): run(0.9, 0.1, 0.8),
                ("wide", "s2"): run(0.8, 0.9, 0.78),
                ("narrow", "s1"): run(0.4, 0.1, 0.6),
                ("narrow", "s2"): run(0.3, 0.4, 0.5),
                ("tiny", "s1"): run(0.9, 0.1, 0.8),
                ("tiny", "s2"): run(0.9, 0.9, 0.79),
            }
        )
    )
    assert "narrow kept 28.0 less and learned 50.0 less" in text
    assert "narrow and tiny did not come out ahead" in text


def test_learning_given_up_for_keeping_is_called_a_trade(make_record) -> None:
    text = headline(
        make_record(
            {
                ("base", "base"): BASE,
                ("wide", "s1"): run(0.9, 0.1, 0.3),
                ("wide", "s2"): run(0.9, 0.9, 0.4),
                ("narrow", "s1"): run(0.4, 0.1, 0.8),
                ("narrow", "s2"): run(0.4, 0.4, 0.8),
            }
        )
    )
    assert "narrow traded learning for keeping" in text


@pytest.mark.parametrize(
    ("held_out", "said"),
    [
        (0.4, "lost 40.0 points"),
        (0.79, "shows no clear change on 2 held-out tasks (-1.0 points"),
        (0.97, "gained 17.0 points"),
    ],
)
def test_one_arm(make_record, held_out: float, said: str) -> None:
    values = {("wide", "s1"): run(0.9, 0.1, 0.8), ("wide", "s2"): run(0.9, 0.9, held_out)}
    text = headline(make_record({("base", "base"): BASE} | values))
    assert text.startswith("wide learned +80.0 points [")
    assert said in text


def test_an_arm_that_learned_nothing_is_not_praised(make_record) -> None:
    values = {("wide", "s1"): run(0.12, 0.1, 0.8), ("wide", "s2"): run(0.1, 0.11, 0.8)}
    assert "no clear learning" in headline(make_record({("base", "base"): BASE} | values))


def test_without_held_out_tasks_what_was_kept_is_unknown(make_record) -> None:
    values = {
        ("base", "base"): {"s1": 0.1, "s2": 0.1},
        ("wide", "s1"): {"s1": 0.9, "s2": 0.1},
        ("wide", "s2"): {"s1": 0.9, "s2": 0.9},
    }
    assert "what it kept is unknown" in headline(make_record(values, held_out=()))
    both = values | {("narrow", stage): values["wide", stage] for stage in ("s1", "s2")}
    text = headline(make_record(both, held_out=()))
    assert "what was kept is unknown" in text
    assert "narrow did not come out ahead" in text


def test_an_unfinished_arm_is_left_out_by_name(make_record) -> None:
    record = make_record(
        {
            ("base", "base"): BASE,
            ("wide", "s1"): run(0.9, 0.1, 0.3),
            ("wide", "s2"): run(0.9, 0.9, 0.4),
            ("narrow", "s1"): run(0.9, 0.1, 0.8),
        },
        status="interrupted",
    )
    text = headline(record)
    assert "The run is not complete (status: interrupted)." in text
    assert "Left out, not scored to the end: narrow (1 of 2 stages)." in text
    assert "learned most" not in text


def test_a_record_with_nothing_says_so(make_record) -> None:
    text = headline(make_record({}, status="failed"))
    assert "nothing to compare" in text
    assert "failed" in text


def test_a_broken_ledger_is_in_the_headline(make_record) -> None:
    row = LedgerRow(arm="wide", stage="s1", held=False, frozen=3, changed=("model.norm.weight",))
    values = {("wide", "s1"): run(0.9, 0.1, 0.8), ("wide", "s2"): run(0.9, 0.9, 0.8)}
    text = headline(make_record({("base", "base"): BASE} | values, ledger=(row,)))
    assert "The ledger is broken: frozen tensors changed in wide." in text


def test_methods_and_the_shares_they_picked_are_told(make_record) -> None:
    values = {("base", "base"): BASE, ("plain", "s2"): BASE, ("held", "s2"): BASE}
    plain = make_record(values)
    assert "Not taught by plain descent" not in headline(plain)
    spec = {"name": "held", "recipe": "full", "method": {"wise-ft": {"alpha": 0.5}, "lwf": {}}}
    arms = (plain.experiment.arms[0], ArmSpec.model_validate(spec))
    experiment = plain.experiment.model_copy(update={"arms": arms})
    told = make_record(values, experiment=experiment)
    assert "Not taught by plain descent alone: held by lwf and wise-ft." in headline(told)
    assert "wise-ft kept" not in headline(told)  # the share was given, not picked

    def reading(part: str, stage: str, share: float) -> dict[str, object]:
        return {"probe": "wise_ft", "part": part, "arm": "held", "stage": stage, "value": share}

    rows = (reading("tried", "s1", 0.3), reading("chosen", "s1", 0.4), reading("chosen", "s2", 1.0))
    picked = make_record(values, experiment=experiment, readings=rows)
    assert "Of what held had changed, wise-ft kept 0.4 of s1 and 1 of s2." in headline(picked)
