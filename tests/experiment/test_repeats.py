"""Orders and seeds in an experiment: what they mean, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from narrowtune.errors import InputError
from narrowtune.experiment import Experiment, dump_experiment, parse_experiment, read_yaml


def experiment(**more: Any) -> Experiment:
    stages = [{"name": name, "train": "t"} for name in ("a", "b", "c")]
    arms = [{"name": "x", "recipe": "full"}]
    return parse_experiment({"model": {"id": "m"}, "stages": stages, "arms": arms} | more)


def test_once_as_written_unless_asked() -> None:
    plain = experiment(seed=5)
    assert not plain.repeated
    (only,) = plain.replicates
    assert (only.order, only.seed) == (("a", "b", "c"), 5)
    assert plain.alone(only) == plain


def test_all_orders_from_every_seed() -> None:
    repeated = experiment(orders="all", seeds=[0, 1])
    names = [one.name for one in repeated.replicates]
    assert len(set(names)) == 12 and names[0] == "order-1/seed-0" and names[6] == "order-1/seed-1"
    assert len({one.order for one in repeated.replicates}) == 6


def test_one_replicate_is_an_experiment_of_its_own() -> None:
    repeated = experiment(orders=[["b", "c", "a"]], seeds=[3])
    alone = repeated.alone(repeated.replicates[0])
    assert [stage.name for stage in alone.stages] == ["b", "c", "a"]
    assert alone.seed == 3 and not alone.repeated
    again = parse_experiment(read_yaml(dump_experiment(alone), "x"))
    assert again == alone


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"orders": "al"}, "give 'all', or lists of stage names"),
        ({"orders": ["a", "b", "c"]}, "give 'all', or lists of stage names"),
        ({"orders": [["a", "b"]]}, "leaves out c"),
        ({"orders": [["a", "b", "cc"]]}, "'cc' is no stage; did you mean 'c'"),
        ({"orders": [["a", "b", "c", "a"]]}, "'a' stands there twice"),
        ({"orders": [["a", "b", "c"], ["a", "b", "c"]]}, "a > b > c stands there twice"),
        ({"seeds": [1, 1]}, "seeds: 1 stands there twice"),
        ({"seeds": [1], "seed": 2}, "not both"),
        ({"noise_floor": {"batch_sizes": [0]}}, "noise_floor.batch_sizes.0"),
        ({"noise_floor": {"batch_sizes": [1]}, "evaluate": ["after_stage"]}, "add base"),
    ],
)
def test_what_cannot_be_is_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        experiment(**wrong)


def test_everything_wrong_is_told_at_once() -> None:
    with pytest.raises(InputError) as told:
        experiment(orders=[["a", "b", "d"]], seeds=[1, 1])
    assert len(told.value.problems) == 3
    assert all(part in str(told.value) for part in ("'d' is no stage", "leaves out c", "seeds: 1"))


def test_unknown_keys_hide_nothing() -> None:
    stages = [{"name": "a", "train": "t"}, {"name": "b", "train": "t", "metrics": "exact"}]
    with pytest.raises(InputError) as told:
        experiment(
            stages=stages,
            held_out=[{"name": "a", "test": "u"}, {"harness": "lm-eval", "task": "b", "sots": 1}],
            arms=[{"name": "base", "recipe": "full"}, {"name": "x"}, {"name": "x"}],
            orders=[["a", "c"]],
            seeds=[1, 1],
            seed=2,
            probes=["kl", {"probe": "kl"}],
            noise_floor={"batch_sizes": [1]},
            evaluate=["after_stage"],
            trainning={},
        )
    wrong = [
        "stages.1.metrics: unknown key", "held_out.1.sots: unknown key", "trainning: unknown key",
        "arms.1: give either 'recipe'", "arms.2: give either 'recipe'",
        "task names must differ; used twice: a, b", "arm names must differ; used twice: x",
        "the arm name 'base' is taken", "orders.0: 'c' is no stage", "orders.0: it leaves out b",
        "seeds: 1 stands there twice", "give either seed (2) or seeds ([1, 1])",
        "probe kl is asked for twice", "add base to evaluate",
    ]  # fmt: skip
    assert [said for said in wrong if said not in str(told.value)] == []
    assert len(told.value.problems) == len(wrong)


def test_what_is_unreadable_is_told_once() -> None:
    """A stage without a name, or seeds that are none, contradict nothing."""
    nameless = [{"train": "t"}, {"name": "b", "train": "t"}]
    with pytest.raises(InputError) as told:
        experiment(stages=nameless, orders=[["a", "b"]], seeds=["x", "x"], seed=3, evaluate="base")
    assert len(told.value.problems) == 4
    assert "orders" not in str(told.value) and "twice" not in str(told.value)


@pytest.mark.parametrize("wrong", [{"orders": 3}, {"stages": 3}, {"arms": "x"}, {"probes": [3]}])
def test_any_value_gets_a_sentence(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        experiment(seeds=[1, 1], **wrong)
