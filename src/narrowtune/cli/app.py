"""Which commands there are, and how their errors end.

Exit codes: 0 fine; 1 the input is wrong; 2 usage; 3 it ran and a check failed;
130 stopped by Ctrl-C.
"""

from __future__ import annotations

import os
import re
import sys
from typing import Annotated

import typer

from narrowtune.cli.data import data_check_command
from narrowtune.cli.delta import (
    delta_apply_command,
    delta_scale_command,
    delta_show_command,
    delta_verify_command,
)
from narrowtune.cli.demo import demo_command
from narrowtune.cli.doctor import doctor_command
from narrowtune.cli.evaluate import eval_command
from narrowtune.cli.explain import explain_command
from narrowtune.cli.frontier import frontier_command
from narrowtune.cli.inspect import inspect_command, select_command
from narrowtune.cli.prepare import data_prepare_command
from narrowtune.cli.probe import probe_command
from narrowtune.cli.recommend import recommend_command
from narrowtune.cli.report import report_command
from narrowtune.cli.run import plan_command, run_command
from narrowtune.cli.train import train_command
from narrowtune.errors import InputError, NarrowTuneError

app = typer.Typer(
    name="narrowtune",
    help="Teach a language or multimodal model a new skill without erasing the old ones, "
    "and prove it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
data = typer.Typer(
    help="Data files: look at them, or make them of public releases.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
delta = typer.Typer(
    help="What a stage changed: look at it, put it on its base, scale it, prove it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

app.command("demo")(demo_command)
app.command("inspect")(inspect_command)
app.command("select")(select_command)
app.command("plan")(plan_command)
app.command("train")(train_command)
app.command("run")(run_command)
app.command("eval")(eval_command)
app.command("probe")(probe_command)
app.command("explain")(explain_command)
app.command("report")(report_command)
app.command("frontier")(frontier_command)
app.command("recommend")(recommend_command)
app.command("doctor")(doctor_command)
data.command("check")(data_check_command)
data.command("prepare")(data_prepare_command)
app.add_typer(data, name="data")
delta.command("show")(delta_show_command)
delta.command("apply")(delta_apply_command)
delta.command("scale")(delta_scale_command)
delta.command("verify")(delta_verify_command)
app.add_typer(delta, name="delta")

_TRACEBACK = "NARROWTUNE_TRACEBACK"


@app.callback()
def options(
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Show where in the code an error arose.")
    ] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Options before the command's name."""
    if traceback:
        os.environ[_TRACEBACK] = "1"
    if version:
        from narrowtune import __version__

        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line; an error of the user's becomes a message, not a traceback."""
    try:
        app(prog_name="narrowtune")
    except NarrowTuneError as error:
        if os.environ.get(_TRACEBACK):
            raise
        _print_problems(error)
        sys.exit(getattr(error, "exit_code", 1))
    except KeyboardInterrupt:
        typer.echo("stopped", err=True)
        sys.exit(130)


def _print_problems(error: NarrowTuneError) -> None:
    problems = error.problems if isinstance(error, InputError) else (str(error),)
    if len(problems) > 1:
        more = sum(int(n) for problem in problems for n in re.findall(r"^and (\d+) more", problem))
        listed = len(problems) - any(problem.startswith("and ") for problem in problems)
        typer.echo(f"error: {listed + more} problems", err=True)
    for problem in problems:
        typer.echo(f"  - {problem}" if len(problems) > 1 else f"error: {problem}", err=True)
