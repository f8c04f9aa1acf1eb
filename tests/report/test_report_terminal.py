"""The report in a terminal and its command."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from made_up_run import make_record, write_run
from rich.console import Console
from typer.testing import CliRunner

from narrowtune.errors import InputError
from narrowtune.record import Record, predictions_path
from narrowtune.report import print_terminal, read_samples
from narrowtune.report.units import count, duration, memory, share


def printed(record: Record, **how) -> str:
    out = io.StringIO()
    print_terminal(record, Console(file=out, width=80), **how)
    return out.getvalue()


def test_it_fits_eighty_columns_without_colours(record: Record, run_folder: Path) -> None:
    text = printed(record, folder=run_folder)
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text
    assert "…" not in text


def test_it_holds_the_numbers(record: Record, run_folder: Path) -> None:
    text = printed(record, folder=run_folder)
    for word in ("language", "attention", "gate-up", "held (141)", "after counting", "1.61 M"):
        assert word in text
    base = next(score for score in record.scores if score.task == "captions")
    assert re.search(rf"captions +{100 * base.value:.1f} ", text)


def test_unfinished_and_broken_runs_are_told() -> None:
    record = make_record(n=5)
    cut = record.model_copy(
        update={"status": "failed", "error": "disk full", "cost": (), "ledger": ()}
    )
    text = printed(cut)
    assert "Not complete: failed. disk full" in text
    assert "not checked" in text


def test_many_stages_are_split_over_tables(record: Record) -> None:
    stage = record.experiment.stages[0]
    names = [f"skill-{i}" for i in range(9)]
    stages = tuple(stage.model_copy(update={"name": name}) for name in names)
    score = record.scores[0]
    scores = tuple(
        score.model_copy(update={"arm": "language", "stage": s, "task": t})
        for s in names
        for t in names
    )
    experiment = record.experiment.model_copy(update={"stages": stages})
    text = printed(record.model_copy(update={"experiment": experiment, "scores": scores}))
    assert text.count("Scores of language") == 3
    assert max(map(len, text.splitlines())) <= 80


def test_damaged_predictions_are_named_by_line(tmp_path: Path) -> None:
    record = write_run(tmp_path, arms=("gate-up",), n=3)
    path = predictions_path(tmp_path, "base", "base", "counting")
    good = path.read_text("utf-8").splitlines()
    nan = good[1].replace('"score": 1.0', '"score": NaN').replace('"score": 0.0', '"score": NaN')
    odd = [good[0], "{", good[0], '{"id": 1}', "[1]", nan]
    path.write_bytes("\n".join(odd).encode() + b"\n\xff\xfe")
    with pytest.raises(InputError) as caught:
        read_samples(tmp_path, record)
    assert [problem.split(" ")[0] for problem in caught.value.problems] == [
        f"{path}:{line}" for line in (2, 3, 4, 5, 6, 7)
    ]


def test_missing_predictions_only_unpair(record: Record, tmp_path: Path) -> None:
    assert not read_samples(tmp_path, record).rows


@pytest.fixture
def command() -> typer.Typer:
    from narrowtune.cli.report import report_command

    app = typer.Typer()
    app.command()(report_command)
    return app


def test_the_command_writes_and_prints_its_path(command: typer.Typer, run_folder: Path) -> None:
    (run_folder / "report.html").unlink(missing_ok=True)
    done = CliRunner().invoke(command, [str(run_folder)])
    assert done.exit_code == 0
    assert f"report: {run_folder / 'report.html'}" in done.stdout
    assert (run_folder / "report.html").stat().st_size > 1_000_000


def test_the_command_prints_json(command: typer.Typer, run_folder: Path) -> None:
    done = CliRunner().invoke(command, [str(run_folder / "record.json"), "--json"])
    found = json.loads(done.stdout)
    assert [arm["arm"] for arm in found["arms"]] == ["language", "attention", "gate-up"]
    assert found["arms"][1]["held_out"]["mean"]["pairing"] == "paired"
    assert found["against_widest"][0]["verdict"] in ("ahead", "traded", "not ahead")
    assert found["report"].endswith("report.html")


def test_a_folder_without_a_record_is_refused(command: typer.Typer, tmp_path: Path) -> None:
    done = CliRunner().invoke(command, [str(tmp_path)])
    assert isinstance(done.exception, InputError)


def test_no_torch_behind_the_report(run_folder: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from narrowtune.record import read_record\n"
        "from narrowtune.report import write_html\n"
        f"folder = Path({str(run_folder)!r})\n"
        "write_html(read_record(folder), folder / 'report.html')\n"
        "print([m for m in ('torch', 'transformers', 'accelerate') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_units() -> None:
    assert [count(n) for n in (845, 1_500_000, 7.62e9)] == ["845", "1.50 M", "7.62 B"]
    assert [memory(n) for n in (12, 812 * 2**20, 1.25 * 2**30)] == ["12 B", "812 MiB", "1.25 GiB"]
    assert [duration(s) for s in (8.2, 185, 7800)] == ["8.2 s", "3 min 05 s", "2 h 10 min"]
    assert [share(1, 8), share(1, 4000), share(0, 5)] == ["12.5 %", "0.025 %", "0.0 %"]
