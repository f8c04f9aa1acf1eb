"""The frontier as a command, as a section of the report, and over several runs read together."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from made_up_run import write_run
from rich.console import Console
from typer.testing import CliRunner, Result

from narrowtune.analysis.frontier import frontier
from narrowtune.cli import app
from narrowtune.errors import InputError
from narrowtune.record import read_record
from narrowtune.report import write_html
from narrowtune.report.frontier import FIGURE, frontier_figure, read_together
from narrowtune.report.frontier_terminal import print_frontier

HIGH, LOW = "wide@learning_rate=1e-3", "wide@learning_rate=1e-5"
CELLS = {"language": HIGH, "attention": LOW, "gate-up": "narrow"}


def rewrite(folder: Path, change: Any) -> None:
    """Change the record's plain data."""
    path = folder / "record.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def rename(folder: Path, names: dict[str, str]) -> None:
    """Give arms other names, in the record and for their answers; those of cells say `of`."""

    def renamed(values: dict[str, Any]) -> None:
        for arm in values["experiment"]["arms"]:
            arm["name"] = names[arm["name"]]
            arm["of"] = arm["name"].partition("@")[0] if "@" in arm["name"] else None
        for kind in ("scores", "ledger", "cost", "losses", "data_order"):
            for row in values[kind]:
                row["arm"] = names.get(row["arm"], row["arm"])

    rewrite(folder, renamed)
    for old, new in names.items():
        (folder / "predictions" / old).rename(folder / "predictions" / new)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("swept")
    write_run(folder, n=60)
    rename(folder, CELLS)
    diverged = {"arm": "wide@learning_rate=1", "stage": "counting", "step": 2, "reason": "loss nan"}

    def diverge(values: dict[str, Any]) -> None:
        arm = values["experiment"]["arms"][0] | {"name": diverged["arm"]}
        values["experiment"]["arms"].append(arm)
        values["diverged"] = [diverged]

    rewrite(folder, diverge)
    return folder


def command(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["frontier", *map(str, arguments)])


def test_the_tables_fit_eighty_columns(swept: Path) -> None:
    found = frontier(read_together([swept])[1])
    assert found is not None
    out = io.StringIO()
    print_frontier(found, Console(file=out, width=80))
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= 80 and "…" not in text
    assert "Left out: wide@learning_rate=1: diverged." in text


def test_the_command_says_what_the_library_says(swept: Path) -> None:
    plain, values = command(swept), json.loads(command(swept, "--json").stdout)
    assert plain.exit_code == 0
    assert [one["family"] for one in values["families"]] == ["wide", "narrow"]
    assert values["levels"] == [0.8, 0.9, 0.95] and values["draws"] > 0
    assert values["left_out"] == {"wide@learning_rate=1": "diverged"}
    words = " ".join(plain.stdout.split())
    assert all(sentence in words for sentence in values["sentences"])


def test_the_report_in_json_holds_the_frontier(swept: Path, run_folder: Path) -> None:
    found = [
        json.loads(CliRunner().invoke(app, ["report", str(folder), "--json"]).stdout)
        for folder in (swept, run_folder)
    ]
    assert found[0]["frontier"] == json.loads(command(swept, "--json").stdout)
    assert found[0]["diverged"][0]["step"] == 2
    assert found[1]["frontier"] is None and found[1]["diverged"] == []


@pytest.mark.parametrize("at", ["--at 0.5 0.7", "--at 0.5,0.7", "--at=0.7 --at=.5"])
def test_levels_may_be_chosen(swept: Path, at: str) -> None:
    values = json.loads(command(swept, *at.split(), "--json").stdout)
    assert values["levels"] == [0.5, 0.7]
    assert [one["level"] for one in values["families"][0]["kept_at"]] == [0.5, 0.7]


@pytest.mark.parametrize("at", ["0", "1.5", "most", ""])
def test_wrong_levels_are_refused(swept: Path, at: str) -> None:
    done = command(swept, "--at", at)
    assert isinstance(done.exception, InputError) and "above 0 and up to 1" in str(done.exception)


def test_the_page_of_a_sweep_has_the_section(swept: Path, run_folder: Path, tmp_path: Path) -> None:
    pages = [
        write_html(read_record(folder), folder / "report.html").read_text(encoding="utf-8")
        for folder in (swept, run_folder)
    ]
    assert [f'data-figure="{FIGURE}"' in page for page in pages] == [True, False]
    assert "Diverged: wide@learning_rate=1 (while taught counting, at step 2)" in pages[0]
    alone = tmp_path / "frontier.html"
    assert command(swept, "--html", alone).exit_code == 0
    text = alone.read_text(encoding="utf-8")
    assert f'data-figure="{FIGURE}"' in text and "What pico-qwen keeps" in text
    assert command(swept, "--html", tmp_path / "no" / "such" / "x.html").exit_code == 0


def test_the_figure_tells_families_and_beaten_cells_apart(swept: Path) -> None:
    found = frontier(read_together([swept])[1])
    assert found is not None
    _, *traces = frontier_figure(found)["data"]
    by_family = {trace["name"]: trace["marker"] for trace in traces if trace["mode"] != "markers"}
    assert by_family["wide"]["symbol"] != by_family["narrow"]["symbol"]
    assert by_family["wide"]["color"] != by_family["narrow"]["color"]
    points = [p for family in found.families for p in family.points if not p.on_frontier]
    hollow = [trace for trace in traces if trace["marker"]["symbol"].endswith("-open")]
    assert sum(len(trace["x"]) for trace in hollow) == len(points)
    assert all(len(trace["error_y"]["array"]) == len(trace["y"]) for trace in traces)


@pytest.fixture
def apart(tmp_path: Path) -> list[Path]:
    """Two runs of one arm, `wide`, at different rates; the second has another arm besides."""
    folders = [tmp_path / "high", tmp_path / "low"]
    for folder, arms in zip(folders, [("language",), ("attention", "gate-up")], strict=True):
        write_run(folder, arms=arms, n=60)
        names = {arm: "narrow" if arm == "gate-up" else "wide" for arm in arms}
        rename(folder, names)

    def slower(values: dict[str, Any]) -> None:
        values["experiment"]["training"]["learning_rate"] = 1e-5

    rewrite(folders[1], slower)
    return folders


def test_runs_at_different_rates_are_one_family(apart: list[Path], swept: Path) -> None:
    """Read together they say what one run with a sweep says."""
    together, one = (json.loads(command(*folders, "--json").stdout) for folders in (apart, [swept]))
    assert [point["arm"] for point in together["families"][0]["points"]] == [HIGH, LOW]
    for key in ("families", "sentences", "levels"):
        assert together[key] == one[key]


def test_the_same_arm_counts_once(apart: list[Path]) -> None:
    record, runs = read_together([apart[0], apart[0]])
    assert [arm.name for arm in record.experiment.arms] == ["wide"]
    assert runs[0].record.scores == read_record(apart[0]).scores


def test_arms_that_train_other_parts_are_no_family(apart: list[Path]) -> None:
    rewrite(apart[1], lambda values: values["experiment"]["arms"][0].update(train=["vision"]))
    record, _ = read_together(apart)
    assert [arm.family for arm in record.experiment.arms] == [
        *(f"wide@run={str(folder).replace('/', '-')}" for folder in apart), "narrow",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda v: v["environment"].update(weights_sha256="abc"), "the base's weights"),
        (lambda v: v["experiment"]["held_out"].pop(), "the task captions: held out and none"),
        (lambda v: [s.update(task_version="2") for s in v["scores"]], "version of the task"),
        (lambda v: v["data"][0].update(sha256="other"), r"what teaches counting"),
        (lambda v: v["scores"][0].update(value=0.99), r"the base's score on counting"),
        (lambda v: v["experiment"].update(seed=3), "no order and seed is in all of"),
    ],
)  # fmt: skip
def test_runs_that_do_not_compare_are_refused(apart: list[Path], change: Any, says: str) -> None:
    rewrite(apart[0], lambda v: v["data"][0].update(path="data/counting/train.jsonl"))
    rewrite(apart[1], lambda v: v["data"][0].update(path="data/counting/train.jsonl"))
    rewrite(apart[1], change)
    with pytest.raises(InputError, match=says) as refused:
        read_together(apart)
    assert all(str(folder) in str(refused.value) for folder in apart)


def test_what_is_no_run_is_told_of_every_folder(tmp_path: Path, swept: Path) -> None:
    done = command(tmp_path / "a", swept, tmp_path / "b")
    assert isinstance(done.exception, InputError) and len(done.exception.problems) == 2


def test_no_torch_behind_the_frontier(swept: Path) -> None:
    program = (
        "import sys; from narrowtune.cli import app\n"
        f"try: app(['frontier', {str(swept)!r}, '--json'], prog_name='narrowtune')\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = ('torch', 'transformers', 'accelerate')\n"
        "print([m for m in heavy if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr.strip() == "[]", done.stderr
