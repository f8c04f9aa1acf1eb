"""An experiment file: what it means, and what is said of a wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest

from narrowtune.errors import InputError
from narrowtune.experiment import digest, dump_experiment, load_experiment, parse_experiment

GOOD = """
model: {id: pico-qwen, dtype: float32}
seed: 3
stages:
  - {name: counting, train: c/train.jsonl, test: c/test.jsonl, metric: number}
held_out:
  - {name: relations, test: r.jsonl}
arms:
  - {name: gate-up, recipe: gate-up}
  - {name: some, train: [language.attn.q], keep: ["language.attn.q[0:1]"]}
training: {learning_rate: 1e-4, batch_size: 8, micro_batch_size: 4}
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "experiment.yaml"
    path.write_text(text)
    return path


def test_reads_what_is_written(tmp_path: Path) -> None:
    experiment = load_experiment(written(tmp_path, GOOD))
    assert experiment.training.learning_rate == pytest.approx(1e-4)
    assert experiment.arms[0].terms == ("gate-up",)
    assert experiment.arms[1].terms == ("language.attn.q",)
    assert experiment.stages[0].metric == "number"


def test_dump_and_load_give_the_same_experiment(tmp_path: Path) -> None:
    experiment = load_experiment(written(tmp_path, GOOD))
    again = load_experiment(written(tmp_path, dump_experiment(experiment)))
    assert again == experiment
    assert digest(again.model_dump(mode="json")) == digest(experiment.model_dump(mode="json"))


def test_every_problem_is_reported_with_its_path(tmp_path: Path) -> None:
    text = GOOD.replace("batch_size: 8", "batchsize: 8").replace("metric: number", "metric: nubmer")
    with pytest.raises(InputError) as caught:
        load_experiment(written(tmp_path, text + "\nheldout: []\n"))
    message = str(caught.value)
    assert len(caught.value.problems) == 3
    assert "training.batchsize" in message and "'batch_size'" in message
    assert "stages.0.metric" in message and "nubmer" in message
    assert "heldout" in message and "'held_out'" in message


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("recipe: gate-up}", "recipe: gate-up, train: [mlp]}"), "either 'recipe'"),
        (("name: relations", "name: counting"), "used twice: counting"),
        (("name: gate-up,", "name: base,"), "untouched model"),
        (("micro_batch_size: 4", "micro_batch_size: 3"), "no multiple"),
        (("learning_rate: 1e-4", "learning_rate: -1"), "greater than or equal to 0"),
        (("seed: 3", "seed: [3"), "not valid YAML"),
    ],
)
def test_wrong_values(tmp_path: Path, change: tuple[str, str], says: str) -> None:
    assert change[0] in GOOD
    with pytest.raises(InputError, match=says):
        load_experiment(written(tmp_path, GOOD.replace(*change)))


def test_overrides_land_in_the_experiment(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD)
    changed = load_experiment(path, ["training.learning_rate=3e-4", "arms.1.name=other"])
    assert changed.training.learning_rate == pytest.approx(3e-4)
    assert changed.arms[1].name == "other"
    with pytest.raises(InputError, match="key=value"):
        load_experiment(path, ["training.steps"])
    with pytest.raises(InputError, match="no place in a list of 2"):
        load_experiment(path, ["arms.7.name=x"])


def test_overrides_of_stage_and_arm_win_in_order(tmp_path: Path) -> None:
    text = GOOD.replace("metric: number}", "metric: number, training: {steps: 5, epochs: 2}}")
    text = text.replace("recipe: gate-up}", "recipe: gate-up, training: {steps: 7}}")
    experiment = load_experiment(written(tmp_path, text))
    merged = experiment.training.merged(experiment.stages[0].training, experiment.arms[0].training)
    assert (merged.steps, merged.epochs, merged.batch_size) == (7, 2, 8)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no experiment file at .*nowhere\.yaml"):
        load_experiment(tmp_path / "nowhere.yaml")


def test_experiments_are_immutable() -> None:
    raw = {
        "model": {"id": "pico-qwen"},
        "stages": [{"name": "a", "train": "a.jsonl"}],
        "arms": [{"name": "x", "recipe": "attention"}],
    }
    experiment = parse_experiment(raw)
    with pytest.raises(ValueError, match="frozen"):
        experiment.seed = 3  # type: ignore[misc]
