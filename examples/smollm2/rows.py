"""What every script here writes: one chat per line, as narrowtune reads it."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def chat(
    identity: str, prompt: str, answer: str, *, choices: Sequence[str] = (), system: str = ""
) -> Row:
    """One question with its answer; `choices` are the candidates for scoring by likelihood."""
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    if system:
        messages.insert(0, {"role": "system", "content": system})
    row: Row = {"id": identity, "messages": messages}
    if choices:
        if answer not in choices:
            raise ValueError(f"{identity}: the answer {answer!r} is not among {list(choices)}")
        row["choices"] = list(choices)
    return row


def subsample(rows: Sequence[Row], count: int | None, seed: int) -> list[Row]:
    """`count` rows drawn without replacement (all where None), in an order set by `seed`."""
    return random.Random(seed).sample(list(rows), min(len(rows), count or len(rows)))


def write(rows: Sequence[Row], path: Path) -> None:
    """The rows as JSONL, one line each; says what was written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8")
    print(f"{path}: {len(rows):,} rows")
