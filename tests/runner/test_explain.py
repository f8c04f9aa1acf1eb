"""`explain` on a real run: base and tuned model answer under each correction, once, resumably."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from pico_tasks import scored, small
from typer.testing import CliRunner

from narrowtune import pico
from narrowtune.cli import app
from narrowtune.errors import InputError
from narrowtune.experiment import parse_experiment
from narrowtune.record import BASE, read_record, write_record
from narrowtune.record.explanation import CORRECTIONS, PLAIN, answers_path, read_explanation
from narrowtune.report import write_html
from narrowtune.report.explaining import ALL, Answers, detections, findings
from narrowtune.runner import Observer, Options, plan, run
from narrowtune.runner.chains import Wanted
from narrowtune.runner.corrections import Trial, prepare_ways, split_task
from narrowtune.runner.explain import explain

HELD_OUT = ("charts", "existence")


def experiment() -> dict[str, object]:
    def asked(task: str) -> dict[str, object]:
        return scored(task) | {"max_new_tokens": 8}

    by_choice = {"scoring": "likelihood-sum", "test": "data/scenes/choices.jsonl"}
    return small(
        (),
        stages=[
            asked(task) | {"train": f"data/{task}/train.jsonl"} for task in ("counting", "reading")
        ],
        orders=[["counting", "reading"], ["reading", "counting"]],
        held_out=[*(asked(task) for task in HELD_OUT), asked("scenes") | by_choice],
        arms=[{"name": "language", "recipe": "language"}],
        training={"batch_size": 16, "learning_rate": 1e-3},
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("explain")
    for task in ("counting", "reading"):
        pico.write(folder / "data", task, "train", 96)
    for task in ("counting", "reading", *HELD_OUT, "scenes"):
        pico.write(folder / "data", task, "test", 16)
    with_choices(folder / "data" / "scenes")
    resolved = plan(parse_experiment(experiment()), folder)
    run(resolved, folder / "out", options=Options(device="cpu", save_models=False))
    return folder


def with_choices(folder: Path) -> None:
    """The test file again, every answer of it a choice of every row."""
    rows = [json.loads(line) for line in (folder / "test.jsonl").read_text().splitlines()]
    answers = sorted({row["messages"][-1]["content"] for row in rows})
    lines = [json.dumps(row | {"choices": answers}) for row in rows]
    (folder / "choices.jsonl").write_text("\n".join(lines) + "\n")


class Counting(Observer):
    def __init__(self) -> None:
        self.answered: list[str] = []

    def advance(self, facts: str) -> None:
        self.answered.append(facts)


def resolve(home: Path):  # type: ignore[no-untyped-def]
    return plan(read_record(home / "out").experiment, home)


@pytest.fixture(scope="module")
def done(home: Path) -> Path:
    wanted = Wanted(stages=["counting"])
    explain(resolve(home), home / "out", wanted, Trial(calibration=6), device="cpu")
    return home / "out" / "explain"


def rows_of(folder: Path, model: tuple[str, str, str], way: str, task: str) -> list[dict]:
    text = answers_path(folder, model, way, task).read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_the_base_is_its_own_target_so_offsets_leave_it_alone(done: Path) -> None:
    for task in (*HELD_OUT, "scenes"):
        plain = rows_of(done, ("", BASE, BASE), PLAIN, task)
        same = rows_of(done, ("", BASE, BASE), "offsets", task)
        assert [row["prediction"] for row in same] == [row["prediction"] for row in plain]


def test_plain_answers_are_the_recorded_ones_and_calibration_rows_are_not_scored(
    done: Path,
) -> None:
    model = ("order-2/seed-0", "language", "counting")
    run_folder = done.parent / "order-2" / "seed-0"
    recorded = run_folder / "predictions" / "language" / "counting" / "charts.jsonl"
    known = {row["id"]: row for row in map(json.loads, recorded.read_text().splitlines())}
    rows = rows_of(done, model, PLAIN, "charts")
    assert all(known[row["id"]] | {"guess": row["guess"]} == row for row in rows)
    (about,) = (one for one in read_explanation(done).tasks if one.task == "charts")
    assert (about.calibration, about.scored) == (6, 10)
    assert len(rows) == 10


def test_each_task_says_what_can_be_tried(done: Path) -> None:
    by_name = {one.task: one for one in read_explanation(done).tasks}
    assert set(by_name["charts"].told) == set(CORRECTIONS)
    assert "choices are all" in by_name["scenes"].unavailable["answer-space"]
    assert by_name["existence"].yes_no
    assert not by_name["charts"].yes_no
    assert by_name["existence"].told["instruction"] == "Answer yes or no."


def test_restricted_answers_are_among_the_tasks_own(done: Path) -> None:
    for replicate in ("order-1/seed-0", "order-2/seed-0"):
        model = (replicate, "language", "counting")
        said = {row["prediction"] for row in rows_of(done, model, "answer-space", "existence")}
        assert said <= {"yes", "no"}


def test_findings_add_up_and_pool_both_orders(home: Path, done: Path) -> None:
    answers = Answers(done, read_record(home / "out"), read_explanation(done))
    found = findings(answers)
    whole = {row.found.correction: row for row in found if row.task == ALL}
    assert set(whole) == set(CORRECTIONS)
    for row in found:
        one = row.found
        assert (row.arm, row.stage, row.runs) == ("language", "counting", 2)
        assert one.lost.value == pytest.approx(one.recovered.value + one.not_recovered.value)
        assert one.above is not None and one.guesses is not None
        off = one.guesses.base - one.guesses.tuned
        assert one.above.lost.value == pytest.approx(one.lost.value - off)
        assert (one.share is None) == (one.share_interval is None)
    assert whole["offsets"].found.base_change.value == 0
    told = detections(answers)
    assert {(one.arm, one.correction) for one in told} >= {(BASE, PLAIN), ("language", "offsets")}


def test_what_is_done_is_not_done_again_and_more_can_be_asked(home: Path, done: Path) -> None:
    watcher = Counting()
    args = (resolve(home), home / "out")
    before = {path: path.read_bytes() for path in done.rglob("*.jsonl")}
    wanted = Wanted(stages=["counting"])
    explain(*args, wanted, Trial(calibration=6), device="cpu", observer=watcher)
    assert all("offsets" in facts for facts in watcher.answered), "only the base's own, to fit to"
    assert {path: path.read_bytes() for path in done.rglob("*.jsonl")} == before
    (done / "answers/order-1/seed-0/language/counting/offsets/charts.jsonl").unlink()
    explain(*args, wanted, Trial(calibration=6), device="cpu")
    assert {path: path.read_bytes() for path in done.rglob("*.jsonl")} == before


def test_asking_for_one_correction_later_hides_none_of_the_others(home: Path, done: Path) -> None:
    wanted, trial = Wanted(stages=["counting"]), Trial(["offsets"], calibration=6)
    explain(resolve(home), home / "out", wanted, trial, device="cpu")
    by_name = {one.task: one for one in read_explanation(done).tasks}
    assert set(by_name["charts"].told) == set(CORRECTIONS)
    assert "answer-space" in by_name["scenes"].unavailable


def test_wrong_names_other_data_and_other_calibration_are_refused(home: Path, done: Path) -> None:
    resolved, out = resolve(home), home / "out"
    with pytest.raises(InputError) as wrong:
        explain(resolved, out, Wanted(["langage"], ["clock"], ["order-3/seed-0"]), device="cpu")
    assert len(wrong.value.problems) == 3
    assert "language" in wrong.value.problems[0]
    with pytest.raises(InputError, match="calibration 6"):
        explain(resolved, out, Wanted(), Trial(calibration=5), device="cpu")
    path = home / "data" / "charts" / "test.jsonl"
    kept = path.read_bytes()
    path.write_bytes(b"".join(kept.splitlines(keepends=True)[:-1]))
    with pytest.raises(InputError, match="other data"):
        explain(resolve(home), out, Wanted(), device="cpu")
    path.write_bytes(kept)


def test_the_page_shows_it_where_it_was_asked(home: Path, done: Path) -> None:
    page = write_html(read_record(home / "out"), home / "out" / "report.html").read_text()
    assert "What was lost, and what only hidden" in page
    assert "language, counting" in page
    assert "its choices are all that can be answered" in page
    assert "above guessing" in page and "Share back" in page
    alone = home / "out" / "order-1" / "seed-0"
    without = write_html(read_record(alone), alone / "report.html").read_text()
    assert "What was lost, and what only hidden" not in without


def test_the_command_finds_the_data_and_prints_tables_and_json(home: Path, done: Path) -> None:
    asked = ["explain", str(home / "out"), "--stage", "counting", "--calibration", "6"]
    shown = CliRunner().invoke(app, [*asked, "--device", "cpu"])
    assert shown.exit_code == 0, shown.output
    assert "language: mean over held-out tasks" in shown.stdout
    assert "existence: yes and no told apart" in shown.stdout
    assert "Above guessing" in shown.stdout
    raw = CliRunner().invoke(app, [*asked, "--device", "cpu", "--json"])
    said = json.loads(raw.stdout)
    assert {row["correction"] for row in said["findings"]} == set(CORRECTIONS)
    assert all(row["above"]["lost"].keys() == row["lost"].keys() for row in said["findings"])
    assert said["yes_no"][0]["found"]["discrimination"].keys() == {"value", "low", "high"}


def test_another_base_is_refused_before_it_answers_anything(home: Path, done: Path) -> None:
    folder = home / "out/order-1/seed-0"
    record = read_record(folder)
    facts = record.environment | {"weights_sha256": "0" * 64}
    write_record(record.model_copy(update={"environment": facts}), folder)
    gone = answers_path(done, ("", BASE, BASE), "instruction", "charts")
    kept = gone.read_bytes()
    gone.unlink()
    with pytest.raises(InputError, match="holds other weights than when the run was made"):
        explain(resolve(home), home / "out", Wanted(), Trial(calibration=6), device="cpu")
    assert not gone.exists()
    gone.write_bytes(kept)
    write_record(record, folder)


def test_a_truncated_file_of_answers_is_named_with_its_line(home: Path, done: Path) -> None:
    path = home / "out/order-1/seed-0/predictions/base/base/charts.jsonl"
    kept = path.read_text()
    path.write_text(kept[:-30])
    with pytest.raises(InputError, match=r"charts\.jsonl:16 is not a prediction"):
        explain(resolve(home), home / "out", Wanted(), Trial(calibration=6), device="cpu")
    path.write_text(kept)


def test_what_cannot_be_split_or_chosen_from_is_said(home: Path, done: Path) -> None:
    resolved = resolve(home)
    (charts,) = (task.prepared for task in resolved.tasks if task.name == "charts")
    with pytest.raises(InputError, match="it has one row, so none can be set apart"):
        split_task("one", charts.again(charts.examples[:1]), 32)
    same = [row for row in charts.examples if row.references == charts.examples[0].references]
    alike = [*same, replace(same[0], id="again")]
    ways = prepare_ways(split_task("alike", charts.again(alike), 32), {}, (), ["answer-space"])
    assert "is right in every row" in ways.about.unavailable["answer-space"]
