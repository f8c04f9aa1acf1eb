"""`narrowtune eval --feature-cache`: what the encoder said is found, the scores are the same."""

from __future__ import annotations

import json

import typer
from typer.testing import CliRunner

from narrowtune.cli.evaluate import eval_command
from narrowtune.models.features import Feed


def test_a_folder_spares_the_encoder_the_next_time(drawn, tmp_path, monkeypatch):
    app, calls, ask = typer.Typer(), [], Feed._encoded
    app.command()(eval_command)

    def note(feed, key, call, *rest):
        calls.extend([call] if feed.context != "trial" else [])
        return ask(feed, key, call, *rest)

    def scores(*more):
        task = f"{drawn / 'counting' / 'test.jsonl'}:number"
        given = ["pico-qwen", "--task", task, "--limit", "6", "--batch-size", "3", "--json", *more]
        done = CliRunner().invoke(app, given)
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    monkeypatch.setattr(Feed, "_encoded", note)
    kept = ["--feature-cache", str(tmp_path / "kept")]
    plain = scores()
    assert not calls
    assert scores(*kept) == plain and len(calls) == 2
    assert scores(*kept) == plain and len(calls) == 2
    assert scores(*kept, "--feature-cache-gib", "0") == plain and len(calls) == 2
