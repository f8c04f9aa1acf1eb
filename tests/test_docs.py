"""If the documentation says it, it holds: code runs, links lead somewhere, help is current."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import narrowtune as nt
from narrowtune.cli import main
from narrowtune.cli.demo import draw

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*/*.md")])
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The README's code blocks in one language."""
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    local = [target.partition("#")[0] for target in targets if "://" not in target]
    missing = [target for target in local if target and not (page.parent / target).exists()]
    assert not missing


def test_the_readme_is_short() -> None:
    assert README.count("\n") <= 150


@pytest.mark.parametrize(
    "page", ["cli.md", "results.md", pytest.param("families.md", marks=pytest.mark.slow)]
)
def test_generated_pages_are_current(page: str) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "docs/build.py", page, "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def after_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working folder is one where `narrowtune demo` has drawn its data, only less of it."""
    draw(tmp_path / "narrowtune-demo" / "data", samples=16, tests=4)
    (experiment,) = blocks("yaml")
    (tmp_path / "experiment.yaml").write_text(experiment)
    monkeypatch.chdir(tmp_path)


def command_lines() -> list[list[str]]:
    """The README's narrowtune commands, as words."""
    text = "\n".join(blocks("bash")).replace("\\\n", " ")
    lines = [shlex.split(line, comments=True) for line in text.splitlines()]
    return [words for words in lines if words[:1] == ["narrowtune"]]


@pytest.mark.usefixtures("after_demo")
def test_the_readmes_commands_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One after the other, as a reader types them; training is cut short."""
    lines = command_lines()
    assert [words[1] for words in lines] == [
        "inspect", "select", "train", "report", "delta", "plan", "run",
    ]  # fmt: skip
    quick = ["-o", "training.steps=2", "--no-save-models"]
    for words in lines:
        monkeypatch.setattr(sys, "argv", words + quick * (words[1] in ("train", "run")))
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        assert not ended.value.code, f"{shlex.join(words)}\n{err}"
        assert out
    assert nt.read_record("runs/first").status == nt.read_record("runs/second").status == "complete"


@pytest.mark.usefixtures("after_demo")
def test_the_readmes_python_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (program,) = blocks("python")
    exec(compile(program, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert nt.read_record("runs/third").status == "complete"
    assert "gate-up" in printed


def test_the_readme_names_every_command() -> None:
    page = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"\| command \| does \|\n(.*?)\n\n", README, flags=re.DOTALL)
    first = "".join(row.split("|")[1] for row in table.splitlines())
    documented = re.findall(r"^## `narrowtune ([\w ]+)`$", page, flags=re.MULTILINE)
    assert sorted(re.findall(r"`([\w ]+)`", first)) == sorted(documented)


def test_make_targets_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    text = README + (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    used = set(re.findall(r"(?:^|`)make ([a-z-]+)", text, flags=re.MULTILINE))
    assert used >= {"demo", "test"}
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in used)
