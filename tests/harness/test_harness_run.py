"""Harness tasks in an experiment: scored at base and after stages, recorded, resumed, paired."""

from __future__ import annotations

import json

import pytest

import narrowtune as nt
from narrowtune import pico as drawing
from narrowtune.report.predictions import read_samples
from narrowtune.runner import Observer, Options
from narrowtune.training import Interrupted

OPTIONS = Options(device="cpu", save_models=False)
HELD_OUT = [
    {"harness": "lm-eval", "task": "own_choice", "limit": 6},
    {"harness": "lm-eval", "task": "own_choice", "name": "two-shot", "num_fewshot": 2, "limit": 6},
    {"harness": "lmms-eval", "task": "see_open", "limit": 4},
]


@pytest.fixture(scope="module")
def make_plan(tmp_path_factory, lm_tasks, lmms_tasks):
    root = tmp_path_factory.mktemp("root")
    drawing.write(root, "counting", "train", 32)
    drawing.write(root, "counting", "test", 6)

    def make(harnesses=True, **changes):
        folders = {"lm-eval": str(lm_tasks), "lmms-eval": str(lmms_tasks)}
        entries = [one | {"include_path": folders[one["harness"]]} for one in HELD_OUT]
        raw = {
            "model": {"id": "pico-qwen", "dtype": "float32"},
            "stages": [
                {
                    "name": "counting",
                    "train": "counting/train.jsonl",
                    "test": "counting/test.jsonl",
                    "metric": "number",
                    "max_new_tokens": 4,
                }
            ],
            "held_out": entries if harnesses else [],
            "arms": [{"name": "gate-up", "recipe": "gate-up"}],
            "training": {"batch_size": 16, "learning_rate": 1e-3},
        }
        return nt.plan(nt.parse_experiment(raw | changes), root)

    return make


@pytest.fixture(scope="module")
def straight(make_plan, tmp_path_factory):
    out = tmp_path_factory.mktemp("harness-run") / "run"
    return nt.run(make_plan(), out, options=OPTIONS), out


def test_scores_land_in_the_record_with_their_versions(straight):
    record, out = straight
    assert record.status == "complete"
    found = {(s.arm, s.stage, s.task): s for s in record.scores}
    for place in (("base", "base"), ("gate-up", "counting")):
        choice = found[(*place, "own_choice")]
        assert (choice.role, choice.metric, choice.n) == ("held_out", "acc_norm", 6)
        assert choice.task_version == "acc_norm+own_choice/1.5+lm-eval/0.4.13"
        assert found[(*place, "two-shot")].task_version.endswith("+2-shot")
        seen = found[(*place, "see_open")]
        assert (seen.metric, seen.n) == ("exact_match", 4)
    files = {file.path: file.rows for file in record.data}
    assert files["lm-eval:own_choice"] == files["lm-eval:own_choice as two-shot"] == 6
    assert not list(out.rglob("models"))  # no full checkpoint was written for it


def test_answers_of_base_and_tuned_are_paired(straight):
    record, out = straight
    samples = read_samples(out, record)
    for task, n in (("own_choice", 6), ("two-shot", 6), ("see_open", 4)):
        before = samples.rows["base", "base", task]
        after = samples.rows["gate-up", "counting", task]
        assert list(before) == list(after) and len(before) == n
        scores = [score for score in record.scores if score.task == task]
        for score, rows in zip(scores, (before, after), strict=True):
            assert score.value == pytest.approx(sum(one.score for one in rows.values()) / n)


def test_the_report_shows_them(straight, tmp_path):
    record, out = straight
    page = nt.write_html(record, out / "report.html").read_text()
    assert all(name in page for name in ("own_choice", "two-shot", "see_open"))


def test_training_is_the_same_with_and_without_them(straight, make_plan, tmp_path):
    _, out = straight
    nt.run(make_plan(harnesses=False), tmp_path / "bare", options=OPTIONS)
    (with_them,) = out.rglob("delta.safetensors")
    (without,) = (tmp_path / "bare").rglob("delta.safetensors")
    one, other = nt.read_delta(with_them), nt.read_delta(without)
    assert one.tensors.keys() == other.tensors.keys()
    assert all((one.tensors[name] == other.tensors[name]).all() for name in one.tensors)


def test_interrupted_between_harness_tasks_it_goes_on_to_the_same_scores(
    straight, make_plan, tmp_path
):
    class StopAfter(Observer):
        seen = 0

        def score(self, score):
            self.seen += 1
            if self.seen == 6:  # the base's four, and two of the arm's
                raise KeyboardInterrupt

    record, out = straight
    again = tmp_path / "run"
    with pytest.raises(Interrupted):
        nt.run(make_plan(), again, options=OPTIONS, observer=StopAfter())
    resumed = nt.run(make_plan(), again, options=OPTIONS, resume=True)
    assert [s.model_dump() for s in resumed.scores] == [s.model_dump() for s in record.scores]
    for path in out.rglob("predictions/**/*.jsonl"):
        assert (again / path.relative_to(out)).read_bytes() == path.read_bytes()


def test_a_run_with_other_harness_prompts_is_another_run(make_plan, lm_tasks):
    before = make_plan().digest
    path = lm_tasks / "own_choice.yaml"
    text = path.read_text()
    path.write_text(text.replace('"{{question}}"', '"Q: {{question}}"'))
    try:
        from narrowtune.evaluation.harness import lm_eval

        lm_eval._manager.cache_clear()
        assert make_plan().digest != before
    finally:
        path.write_text(text)
        lm_eval._manager.cache_clear()


def test_every_harness_problem_is_told_with_the_others(make_plan, lm_tasks):
    wrong = [
        {"harness": "lm-eval", "task": "own_choice", "metric": "f1", "include_path": str(lm_tasks)},
        {"harness": "lmms-eval", "task": "x", "include_path": "gone"},
    ]
    with pytest.raises(nt.InputError) as told:
        make_plan(held_out=wrong, arms=[{"name": "a", "recipe": "gate-pu"}])
    text = "\n".join(told.value.problems)
    assert "task own_choice: lm-eval:own_choice has no metric 'f1'" in text
    assert "task x: lmms-eval:x: include_path" in text
    assert "gate-up" in text


def test_eval_takes_harness_tasks_by_name(lm_tasks, lmms_tasks, tmp_path, run_eval):
    out = tmp_path / "scores"
    done = run_eval(
        "pico-qwen", "--task", "lm-eval:own_choice:acc", "--task", "lm-eval:own_choice",
        "--include-path", lm_tasks, "--limit", 5, "--out", out, "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    scores = json.loads(done.stdout)["scores"]
    assert [(s["task"], s["metric"], s["n"]) for s in scores] == [
        ("own_choice", "acc", 5),
        ("own_choice-2", "acc_norm", 5),
    ]
    assert len((out / "predictions" / "own_choice.jsonl").read_text().splitlines()) == 5
    seen = run_eval("pico-qwen", "--task", "lmms-eval:see_open", "--include-path", lmms_tasks)
    assert seen.exit_code == 0 and "see_open" in seen.stdout


@pytest.fixture
def run_eval():
    import typer
    from typer.testing import CliRunner

    from narrowtune.cli.evaluate import eval_command

    def run(*arguments):
        app = typer.Typer()
        app.command()(eval_command)
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return run
