"""What docs/selection.md says is so."""

from __future__ import annotations

import re
from pathlib import Path

from narrowtune.anatomy import RECIPES, Anatomy
from narrowtune.models.skeleton import build_skeleton, load_config

PAGE = (Path(__file__).parents[2] / "docs" / "selection.md").read_text(encoding="utf-8")


def _table(title: str) -> list[list[str]]:
    """The rows of the table under a heading, cells stripped, the head left out."""
    section = PAGE.split(f"## {title}\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def _words(cell: str) -> tuple[str, ...]:
    return tuple(re.findall(r"`([^`]+)`", cell))


def test_the_recipe_table_is_the_recipes() -> None:
    told = {_words(row[0])[0]: (_words(row[1]), _words(row[2])) for row in _table("Recipes")}
    assert told == {recipe.name: (recipe.terms, recipe.keep) for recipe in RECIPES.values()}


def test_every_example_term_selects_something() -> None:
    anatomy = Anatomy.of(load_config("pico-qwen"))
    examples = [_words(row[2])[0] for row in _table("Terms")]
    assert len(examples) == 6
    assert all(anatomy.select([term]).trained for term in examples)


def test_the_python_example_runs() -> None:
    code = PAGE.split("```python\n")[1].split("```")[0]
    names = {"model": build_skeleton(load_config("pico-qwen"))}
    exec(code, names)
    assert names["trained"]
