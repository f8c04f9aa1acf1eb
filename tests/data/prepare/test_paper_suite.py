"""The shipped experiments of the paper: they load, agree with each other, and resolve to a plan."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import pytest
import releases
from tiny_processors import write_family

import narrowtune as nt
from narrowtune.data.prepare import DATASETS, Manifest
from narrowtune.experiment import read_yaml

PAPER = Path(__file__).parents[3] / "experiments" / "paper"
FAMILIES = {
    "llava-onevision-7b": "llava_onevision",
    "llava-next-llama3-8b": "llava_next",
    "qwen2.5-vl-7b": "qwen2_5_vl",
}


def raw(name: str) -> dict[str, Any]:
    path = PAPER / f"{name}.yaml"
    whole = read_yaml(path.read_text(), str(path))
    assert isinstance(whole, dict)
    return whole


def test_every_file_is_known() -> None:
    assert {path.stem for path in PAPER.glob("*.yaml")} == FAMILIES.keys()


@pytest.mark.parametrize("name", FAMILIES)
def test_it_loads(name: str) -> None:
    experiment = nt.load_experiment(PAPER / f"{name}.yaml")
    assert len(experiment.stages) == 5 and len(experiment.held_out) == 8
    assert len(experiment.replicates) == 9
    assert {stage.name: stage.metric for stage in experiment.stages} == {
        dataset.name: dataset.metric for dataset in DATASETS.values()
    }


def test_only_the_model_differs() -> None:
    files = [raw(name) for name in FAMILIES]
    assert len({file.pop("model")["id"] for file in files}) == 3
    assert files[0] == files[1] == files[2]


def test_every_arm_has_the_same_batch() -> None:
    for arm in raw("qwen2.5-vl-7b")["arms"]:
        assert set(arm.get("training", {})) <= {"learning_rate"}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like experiments/paper, its data made of tiny releases."""
    root = tmp_path_factory.mktemp("paper")
    for name, lay_out in (
        ("cub200", releases.cub200),
        ("pathvqa", releases.pathvqa),
        ("textvqa", releases.textvqa_json),
        ("timeclock", releases.timeclock),
        ("pixmo-count", counted),
    ):
        _prepare(name, lay_out(root / "releases" / name), root / "data" / name)
    return root


def counted(folder: Path) -> Path:
    """PixMo-Count with its images put beside it."""
    for data in releases.pixmo_count(folder, "http://nowhere.invalid").values():
        path = folder / "images" / f"{hashlib.sha256(data).hexdigest()}.jpg"
        releases.write(path, data)
    return folder


def _prepare(name: str, release: Path, out: Path) -> Manifest:
    from narrowtune.data.prepare import build

    return build(DATASETS[name], out, release, lambda *facts: None, seed=0, limit=4)


@pytest.mark.parametrize("name", FAMILIES)
def test_it_resolves_to_a_plan(name: str, prepared: Path, tmp_path: Path) -> None:
    """Every arm selects something on the family, every row fits metric and processor."""
    config = write_family(tmp_path, FAMILIES[name]) / "config.json"
    config.write_text(re.sub(r'("max_position_embeddings": )512', r"\g<1>4096", config.read_text()))
    whole = raw(name) | {"held_out": [], "model": {"id": str(tmp_path)}}
    experiment = nt.parse_experiment(whole)
    first = experiment.alone(experiment.replicates[0])
    plan = nt.plan(first, prepared)
    trained = {arm.spec.name: arm.selection.trained_numel for arm in plan.arms}
    assert len(trained) == 15 and all(trained.values())
    assert trained["attention"] > trained["attention-qkv"] > 0
    assert trained["attention"] + trained["gate-up"] == trained["attention+gate-up"]
    assert trained["gate-up"] + trained["down"] == trained["mlp"]
    assert max(trained.values()) == trained["full"]
