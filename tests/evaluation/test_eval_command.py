"""`narrowtune eval` on a tiny model folder, from the command line's side."""

from __future__ import annotations

import json

import pytest
import torch
import typer
from tiny_processors import CHATML, TEXT, make_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner
from wide_models import with_wide_weights

from narrowtune.cli.evaluate import eval_command
from narrowtune.errors import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    model = with_wide_weights(LlamaForCausalLM(LlamaConfig(**TEXT)))
    model.to(torch.float32).save_pretrained(folder)
    make_tokenizer(CHATML).save_pretrained(folder)
    return folder


@pytest.fixture
def files(tmp_path):
    def write(name, rows):
        path = tmp_path / name
        path.write_text("\n".join(json.dumps(row) for row in rows))
        return str(path)

    counting = [row(f"How many? {n}", str(n)) for n in range(3)]
    naming = [row("Which?", "circle", choices=["circle", "a square"]) for _ in range(2)]
    return {"counting": write("counting.jsonl", counting), "naming": write("naming.jsonl", naming)}


def row(question, answer, **more):
    turns = [("user", question), ("assistant", answer)]
    return {"messages": [{"role": role, "content": text} for role, text in turns], **more}


def run(*arguments):
    app = typer.Typer()
    app.command()(eval_command)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_json_on_stdout_alone_and_predictions_on_disk(folder, files, tmp_path):
    out = tmp_path / "out"
    tasks = ["--task", files["counting"] + ":number", "--task", files["naming"]]
    done = run(folder, *tasks, "--max-new-tokens", 3, "--out", out, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert [(s["task"], s["metric"], s["n"]) for s in told["scores"]] == [
        ("counting", "number", 3),
        ("naming", "exact", 2),
    ]
    assert told == json.loads((out / "scores.json").read_text())
    lines = (out / "predictions" / "counting.jsonl").read_text().splitlines()
    assert [json.loads(line)["references"] for line in lines] == [["0"], ["1"], ["2"]]
    assert "counting (1 of 2" in done.stderr


def test_a_table_with_value_error_n_and_version(folder, files):
    done = run(folder, "--task", files["naming"], "--scoring", "likelihood")
    assert done.exit_code == 0, done.output
    for piece in ("naming", "%", "2", "exact/1+likelihood/1"):
        assert piece in done.stdout


def test_all_that_is_wrong_is_told_before_the_weights_are_read(folder, files, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x").write_text("")
    tasks = ["--task", files["naming"] + ":clock", "--task", str(tmp_path / "none.jsonl")]
    problems = run(folder, *tasks).exception
    assert isinstance(problems, InputError)
    assert "naming.jsonl:1" in problems.problems[0] and "none.jsonl" in problems.problems[-1]
    assert "not an empty folder" in str(run(folder, *tasks, "--out", tmp_path / "out").exception)


def test_one_bad_row_hides_nothing_of_the_others(folder, tmp_path):
    """What the reader, the metric and the command line object to comes in one message."""
    same = {"id": "a"}
    rows = [row("How many?", "often", **same), row("How many?", "2", **same), row("How many?", "")]
    (tmp_path / "test.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    told = run(folder, "--task", f"{tmp_path}/test.jsonl:number").exception
    assert isinstance(told, InputError)
    for piece in ("jsonl:3: an assistant", "jsonl:2: id 'a' is taken by", "jsonl:1: metric 'num"):
        assert any(piece in problem for problem in told.problems), told.problems
    assert len(told.problems) == 3


@pytest.mark.parametrize(
    "wrong",
    [["--dtype", "float16"], ["--batch-size", "0"], ["--limit", "0"], ["--max-new-tokens", "0"]],
)
def test_wrong_values_are_usage_errors(folder, files, wrong):
    assert run(folder, "--task", files["counting"], *wrong).exit_code == 2


def test_a_metric_misspelt_is_no_missing_file(folder, files):
    told = run(folder, "--task", files["counting"] + ":numbr").exception
    assert isinstance(told, InputError) and "did you mean 'number'" in str(told)


@pytest.mark.parametrize("device", ["cuda:99", "warp"])
def test_a_device_that_is_not_here_is_told_before_anything_is_read(folder, device):
    told = run(folder, "--task", "none.jsonl", "--device", device).exception
    assert isinstance(told, InputError) and "cpu" in str(told) and len(told.problems) == 1


@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16"])
def test_every_dtype_that_is_offered_works(folder, files, dtype):
    asked = ["--task", files["counting"] + ":number", "--max-new-tokens", 1, "--device", "cpu"]
    assert run(folder, *asked, "--dtype", dtype).exit_code == 0
