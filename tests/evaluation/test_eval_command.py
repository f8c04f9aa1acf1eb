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

from narrowtune.cli.evaluate import _name_tasks, eval_command
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


def test_tasks_get_names_of_their_own():
    assert list(_name_tasks(["a/test.jsonl:number", "b/test.jsonl", "c/test.jsonl"], "exact")) == [
        "test",
        "test-2",
        "test-3",
    ]
    assert _name_tasks(["x.jsonl:clock"], "exact")["x"][1] == "clock"
