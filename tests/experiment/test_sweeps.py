"""Sweeps: which arms they stand for, what these are called, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narrowtune.errors import InputError
from narrowtune.experiment import (
    ArmSpec,
    Experiment,
    digest,
    dump_experiment,
    parse_experiment,
    read_yaml,
)
from narrowtune.experiment.sweep import value_name


def experiment(*arms: dict[str, Any]) -> Experiment:
    stages = [{"name": "a", "train": "t"}]
    return parse_experiment({"model": {"id": "m"}, "stages": stages, "arms": list(arms)})


def swept(sweep: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"name": "gate-up", "recipe": "gate-up", "sweep": sweep, **more}


def test_a_sweep_stands_for_its_cells() -> None:
    plain = {"name": "language", "recipe": "language"}
    found = experiment(plain, swept({"learning_rate": [1e-5, 3e-5]}, training={"steps": 7}))
    assert [arm.name for arm in found.arms] == [
        "language", "gate-up@learning_rate=1e-5", "gate-up@learning_rate=3e-5",
    ]  # fmt: skip
    assert [arm.family for arm in found.arms] == ["language", "gate-up", "gate-up"]
    cell = found.arms[2]
    assert cell.training.learning_rate == 3e-5 and cell.training.steps == 7
    assert cell.terms == ("gate-up",) and not cell.sweep


def test_all_combinations_the_last_key_fastest() -> None:
    found = experiment(swept({"learning_rate": [1e-4, 1e-3], "steps": [10, 20]}))
    assert [arm.name.partition("@")[2] for arm in found.arms] == [
        f"learning_rate={rate},steps={steps}" for rate in ("1e-4", "1e-3") for steps in (10, 20)
    ]


def test_a_dotted_key_sets_a_methods_value() -> None:
    sweep = {"lora.rank": [4, 8], "wise-ft.alpha": [0.5]}
    found = experiment(swept(sweep, method={"lora": {"alpha": 8}}))
    methods = [arm.method for arm in found.arms]
    assert [one.lora.rank for one in methods if one.lora] == [4, 8]
    assert all(one.lora and one.lora.alpha == 8 for one in methods)
    assert all(one.wise_ft and one.wise_ft.alpha == 0.5 for one in methods)
    assert found.arms[0].name == "gate-up@lora.rank=4,wise-ft.alpha=0.5"


def test_written_and_read_again_it_is_the_same() -> None:
    found = experiment(swept({"learning_rate": [1e-5, 3e-5], "lora.rank": [2]}))
    assert parse_experiment(read_yaml(dump_experiment(found), "x")) == found


def test_cells_are_what_one_would_write_by_hand() -> None:
    rates = (1e-5, 3e-5)
    by_hand = [
        {"name": f"gate-up@learning_rate={name}", "of": "gate-up", "recipe": "gate-up",
         "training": {"learning_rate": rate}}
        for rate, name in zip(rates, ("1e-5", "3e-5"), strict=True)
    ]  # fmt: skip
    assert experiment(swept({"learning_rate": list(rates)})) == experiment(*by_hand)


def test_without_a_sweep_the_digest_does_not_know_of_them() -> None:
    plain = experiment({"name": "x", "recipe": "full"})
    values = plain.model_dump(mode="json", exclude_defaults=True)
    assert values["arms"] == [{"name": "x", "recipe": "full"}]
    assert digest(values) == digest(
        {
            "model": {"id": "m"},
            "stages": [{"name": "a", "train": "t"}],
            "arms": [{"name": "x", "recipe": "full"}],
        }
    )


@pytest.mark.parametrize(
    ("arm", "says"),
    [
        (swept({"learningrate": [1]}), "unknown key 'learningrate'; did you mean 'learning_rate'"),
        (swept({"lora.rnk": [1]}), "unknown key 'lora.rnk'; did you mean 'lora.rank'"),
        (swept({"learning_rate": []}), "sweep.learning_rate: the list is empty"),
        (swept({"learning_rate": [1e-5, 0.00001]}), "learning_rate: 1e-5 stands there twice"),
        (swept({"learning_rate": [1e-5]}, training={"learning_rate": 1}), "training.learning_rate"),
        (swept({"lora.rank": [8]}, method={"lora": {"rank": 4}}), "gives method.lora.rank too"),
        (swept({"learning_rate": [-1.0]}), r"sweep.learning_rate: .*greater.*given: -1.0"),
        (swept({"lora.rank": [0]}), r"sweep.lora.rank: .*greater than 0"),
        (swept({"learning_rate": 1e-5}), "arms.0.sweep.learning_rate"),
        (swept({"learning_rate": [1e-5]}, of="other"), "leave out 'of'"),
    ],
)
def test_what_makes_no_cells_is_refused(arm: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        experiment(arm)


def test_everything_wrong_is_told_at_once() -> None:
    with pytest.raises(InputError) as told:
        experiment(swept({"rate": [1], "steps": []}), {"name": "x"})
    text = str(told.value)
    assert all(part in text for part in ("'rate'", "sweep.steps: the list is empty", "arms.1"))


def test_names_must_differ_before_and_after() -> None:
    sweep = swept({"learning_rate": [1e-5]})
    with pytest.raises(InputError, match="used twice: gate-up"):
        experiment(sweep, {"name": "gate-up", "recipe": "full"})
    with pytest.raises(InputError, match="two cells of sweeps would be called gate-up@learning"):
        experiment(sweep, {"name": "gate-up@learning_rate=1e-5", "recipe": "full"})
    with pytest.raises(InputError, match="'base' is taken"):
        experiment(sweep | {"name": "base"})


@given(st.floats(min_value=0, allow_infinity=False))
def test_a_number_is_named_with_all_its_digits(value: float) -> None:
    name = value_name(value)
    assert float(name) == value
    assert len(name) <= len(repr(value))


@pytest.mark.parametrize(
    ("value", "name"),
    [(3e-5, "3e-5"), (0.0001, "1e-4"), (0.001, "1e-3"), (0.01, "0.01"), (0.25, "0.25"),
     (1e9, "1e9"), (8, "8"), (1.0, "1"), (True, "true"), ("cosine", "cosine"), ("a/b c", "a-b-c")],
)  # fmt: skip
def test_value_names(value: Any, name: str) -> None:
    assert value_name(value) == name
    assert ArmSpec(name=f"x@k={name}", recipe="full").name == f"x@k={name}"
