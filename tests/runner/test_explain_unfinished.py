"""`explain` where something is missing: the base's answers, later stages, the same hardware."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pico_tasks import scored, small

from narrowtune import pico
from narrowtune.data import read_examples
from narrowtune.data.encoding import taught_texts
from narrowtune.data.example import Example, Message, TextPart
from narrowtune.errors import InputError
from narrowtune.evaluation import PreparedTask, prepare
from narrowtune.experiment import parse_experiment
from narrowtune.models.processing import Processing
from narrowtune.record import BASE, read_record, write_record
from narrowtune.record.explanation import PLAIN, answers_path
from narrowtune.runner import Observer, Options, plan, run
from narrowtune.runner.chains import Wanted
from narrowtune.runner.corrections import Trial, prepare_ways, split_task
from narrowtune.runner.explain import explain
from narrowtune.runner.recorded import Recorded, surroundings

TRIAL = Trial(["offsets"], calibration=6)


def asked(task: str) -> dict[str, object]:
    return scored(task) | {"max_new_tokens": 6}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that never asked the base anything."""
    folder = tmp_path_factory.mktemp("unfinished")
    for task in ("counting", "reading"):
        pico.write(folder / "data", task, "train", 48)
    for task in ("counting", "reading", "existence"):
        pico.write(folder / "data", task, "test", 16)
    stages = [
        asked(task) | {"train": f"data/{task}/train.jsonl"} for task in ("counting", "reading")
    ]
    experiment = small(
        (),
        stages=stages,
        held_out=[asked("existence")],
        arms=[{"name": name, "recipe": name} for name in ("language", "gate-up")],
        training={"batch_size": 16, "learning_rate": 1e-3},
        evaluate=["after_stage"],
    )
    resolved = plan(parse_experiment(experiment), folder)
    run(resolved, folder / "out", options=Options(device="cpu", save_models=False))
    return folder


@pytest.fixture
def home(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "home"))


class Listening(Observer):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def explained(home: Path, wanted: Wanted | None = None) -> list[str]:
    """What is noted while all is explained."""
    watcher, out = Listening(), home / "out"
    resolved = plan(read_record(out).experiment, home)
    explain(resolved, out, wanted, TRIAL, device="cpu", observer=watcher)
    return watcher.notes


def rows_of(home: Path, arm: str, stage: str, way: str = PLAIN) -> list[dict]:
    path = answers_path(home / "out/explain", ("", arm, stage), way, "existence")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_base_that_was_never_asked_answers_on_the_spot(home: Path) -> None:
    assert not (home / "out/predictions/base").exists()
    assert explained(home) == []
    plain, same = (rows_of(home, BASE, BASE, way) for way in (PLAIN, "offsets"))
    assert len(plain) == 10
    assert [row["prediction"] for row in plain] == [row["prediction"] for row in same]
    assert {row["said"] for row in plain} <= {"yes", "no", "neither"}
    assert rows_of(home, "language", "reading", "offsets")


def test_what_is_trained_is_explained_and_what_is_not_is_told(home: Path) -> None:
    shutil.rmtree(home / "out/arms/gate-up/reading")
    (note,) = explained(home)
    assert "gate-up/reading" in note and "not explained" in note
    assert rows_of(home, "gate-up", "counting") and rows_of(home, "language", "reading")
    assert not (home / "out/explain/answers/gate-up/reading").exists()
    for wanted in (Wanted(arms=["gate-up"]), Wanted(stages=["reading"])):
        with pytest.raises(InputError, match="is missing: it was not trained that far"):
            explained(home, wanted)
    assert explained(home, Wanted(arms=["gate-up"], stages=["counting"])) == []
    shutil.rmtree(home / "out/arms")
    with pytest.raises(InputError, match="language is not explained") as none:
        explained(home)
    assert len(none.value.problems) == 2


def test_answers_of_other_hardware_are_given_anew(home: Path) -> None:
    path = home / "out/predictions/gate-up/counting/existence.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    right = [row["prediction"] for row in rows]
    path.write_text("".join(json.dumps(row | {"prediction": "tampered"}) + "\n" for row in rows))
    only = Wanted(arms=["gate-up"], stages=["counting"])
    explained(home, only)
    assert {row["prediction"] for row in rows_of(home, "gate-up", "counting")} == {"tampered"}
    shutil.rmtree(home / "out/explain")
    record = read_record(home / "out")
    facts = record.environment | {"device": "cuda", "device_name": "another"}
    write_record(record.model_copy(update={"environment": facts}), home / "out")
    (note,) = explained(home, only)
    assert "device, device_name" in note
    assert {row["prediction"] for row in rows_of(home, "gate-up", "counting")} <= {*right}


def test_offsets_that_may_not_be_as_large_as_needed_are_told_and_recorded(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("narrowtune.probes.offsets.LARGEST", 0.001)
    notes = explained(home, Wanted(arms=["language"], stages=["reading"]))
    assert any("language reading, existence: the offset of" in note for note in notes)
    assert rows_of(home, "language", "reading", "offsets")[0]["at_bound"]
    assert "at_bound" not in rows_of(home, BASE, BASE, "offsets")[0]


def test_a_device_is_the_same_with_and_without_its_number(home: Path) -> None:
    record = read_record(home / "out")
    here = surroundings("cpu", "float32")
    assert Recorded.of(home / "out", here).moved == ()
    assert Recorded.of(home / "out", here | {"dtype": "torch.bfloat16"}).moved == ("dtype",)
    facts = record.environment | {"device": "cuda:0"}
    write_record(record.model_copy(update={"environment": facts}), home / "out")
    assert Recorded.of(home / "out", here | {"device": "cuda"}).moved == ()


def existence(finished: Path, processing: Processing, **how: str) -> PreparedTask:
    rows = read_examples(finished / "data/existence/test.jsonl")
    return prepare(processing, rows, {"metric": "yes_no", "max_new_tokens": 6} | how)  # type: ignore[typeddict-item]


def test_offsets_read_the_answer_and_not_earlier_turns(
    finished: Path, processing: Processing
) -> None:
    task = existence(finished, processing)
    longer = task.again(map(behind_another_turn, task.examples))
    found = []
    for one in (task, longer):
        split = split_task("existence", one, 6)
        said = {row.id: "yes" for row in split.calibration}
        ways = prepare_ways(split, said, (), ["offsets"])
        reference = ways.corrected["offsets"].reference  # type: ignore[attr-defined]
        assert {
            text.strip()[:3] for row in reference.encoded for text in taught_texts(row, processing)
        } == {"yes"}
        found.append(reference.positions)
    for one, other in zip(*map(of_positions, found), strict=True):
        assert torch.equal(one, other)


def of_positions(positions) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[no-untyped-def]
    return positions.sample.bincount(), positions.first.sum()


def behind_another_turn(row: Example) -> Example:
    earlier = (
        Message("user", (TextPart("What colour is the sky?"),)),
        Message("assistant", (TextPart("It is blue, as a rule."),)),
    )
    return replace(row, messages=(*earlier, *row.messages))


@pytest.mark.parametrize(
    ("metric", "text", "said"),
    [
        ("yes_no", "Yes, it is.", "yes"),
        ("yes_no", "There is no doubt: yes", "yes"),
        ("yes_no", "seven", "neither"),
        ("exact", "No.", "no"),
        ("exact", "Yes, it is.", "neither"),
        ("exact", "", "neither"),
    ],
)
def test_yes_and_no_are_what_the_tasks_own_metric_reads(
    finished: Path, processing: Processing, metric: str, text: str, said: str
) -> None:
    split = split_task("existence", existence(finished, processing, metric=metric), 6)
    ways = prepare_ways(split, {}, (), [])
    rows = ways.noted([{"prediction": text, "id": row.id} for row in split.plain.examples])
    assert {row["said"] for row in rows} == {said}
    scores = [split.plain.metric.score(text, row.references) for row in split.plain.examples]
    hits = [said == row.references[0] for row in split.plain.examples]
    assert scores == hits, "the words agree with the scores"


def test_charts_have_no_yes_or_no(finished: Path, processing: Processing) -> None:
    rows = read_examples(finished / "data/counting/test.jsonl")
    split = split_task("counting", prepare(processing, rows, {"metric": "number"}), 6)
    noted = prepare_ways(split, {}, (), []).noted([{"prediction": "1"}] * len(split.plain.examples))
    assert all("said" not in row and "guess" in row for row in noted)
