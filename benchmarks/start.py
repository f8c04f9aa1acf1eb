"""What stands between a data file and the first step: reading, checking, encoding, by part.

Rows of text, and rows of pictures of which many show the same; each number of rows in a process of
its own, so that nothing is known of the files before. CPU seconds, all threads together.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

PICTURES, TESTED, BATCH = 1000, 200, 32
WORDS = (20, 80)
KINDS = ("text", "pictures")
VOCABULARY = ("what", "how", "many", "are", "the", "picture", "red", "blue", "left", "of", "shown")
PARTS = (
    "reading and looking at pictures",
    "chat template",
    "tokenizer",
    "the rest of encoding",
    "overlap of test and training",
    "hashes for the record",
    "lengths and order",
)


def text_rows(count: int, folder: Path) -> Path:
    """Questions of drawn words, each another."""
    draw = random.Random(count)
    asked = [" ".join(draw.choices(VOCABULARY, k=draw.randint(*WORDS))) for _ in range(count)]
    return _written(folder / f"text-{count}.jsonl", [(question, "yes") for question in asked])


def picture_rows(count: int, folder: Path, split: str = "train") -> Path:
    """Questions on pictures of the drawn world; a picture comes as often as there are too few."""
    from narrowtune import pico

    number = min(count, PICTURES)
    drawn = folder / f"{split}-{number}"
    home = drawn / "counting"
    if not home.exists():
        pico.write(drawn, "counting", split, number)
    lines = [json.loads(line) for line in (home / f"{split}.jsonl").read_text().splitlines()]
    rows: list[tuple[Any, str]] = []
    for place in range(count):
        (image, text), answer = (one["content"] for one in lines[place % number]["messages"])
        asked = {"type": "text", "text": f"{text['text']}\n({place})"}
        rows.append(([image, asked], answer))
    return _written(home / f"rows-{count}.jsonl", rows)


def _written(path: Path, rows: Sequence[tuple[Any, str]]) -> Path:
    with path.open("w") as file:
        for place, (question, answer) in enumerate(rows):
            turns = [
                {"role": "user", "content": question},
                {"role": "assistant", "content": answer},
            ]
            file.write(json.dumps({"id": str(place), "messages": turns}) + "\n")
    return path


class Watch:
    """CPU seconds by part."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def timed(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same call, its seconds noted."""

        def noted(*args: Any, **named: Any) -> Any:
            begun = time.process_time()
            try:
                return call(*args, **named)
            finally:
                self.seconds[part] += time.process_time() - begun

        return noted


def started(model: str, train: Path, test: Path) -> tuple[dict[str, float], float, float]:
    """CPU seconds by part, bytes that stay resident for a row, and a row's tokens."""
    from narrowtune.data import encode_all, epoch_order, order_digest
    from narrowtune.data.formats import scan_file
    from narrowtune.data.images import file_digest
    from narrowtune.data.overlap import find_overlaps
    from narrowtune.engine.resident import process_bytes
    from narrowtune.models.processing import load_processing

    processing, watch = load_processing(model), Watch()
    asked = scan_file(test).examples
    encode_all(asked[:50], processing)  # what is compiled and measured once is ready
    before = process_bytes()
    taught = watch.timed(PARTS[0], scan_file)(train).examples
    processing.render = watch.timed(PARTS[1], processing.render)  # type: ignore[method-assign]
    processing.tokenize_all = watch.timed(  # type: ignore[method-assign]
        PARTS[2], processing.tokenize_all
    )
    rows = watch.timed(PARTS[3], encode_all)(taught, processing)
    watch.seconds[PARTS[3]] -= watch.seconds[PARTS[1]] + watch.seconds[PARTS[2]]
    watch.timed(PARTS[4], find_overlaps)({"stage": taught}, {"task": asked})
    named = {train, *(path for one in taught for path in one.images)}
    watch.timed(PARTS[5], lambda: [file_digest(path) for path in named])()

    def ordered() -> str:
        return order_digest(epoch_order([len(row) for row in rows], BATCH, 0, 0))

    watch.timed(PARTS[6], ordered)()
    taken = (process_bytes() - before) / len(rows)
    return dict(watch.seconds), taken, sum(map(len, rows)) / len(rows)


def main() -> None:
    """Print the parts of the start for every kind and number of rows."""
    asked = _parse()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind in asked.kinds:
            if kind == "text":
                test, files = text_rows(TESTED, folder), [text_rows(n, folder) for n in asked.rows]
            else:
                test = picture_rows(TESTED, folder, "test")
                files = [picture_rows(n, folder) for n in asked.rows]
            found = [_alone(asked.model, train, test) for train in files]
            _print(kind, dict(zip(asked.rows, found, strict=True)))


def _alone(model: str, train: Path, test: Path) -> tuple[dict[str, float], float, float]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(started, (model, train, test))


def _print(kind: str, found: dict[int, tuple[dict[str, float], float, float]]) -> None:
    print(f"\n{kind}: CPU seconds (microseconds a row)")
    print(f"{'rows':<32}" + "".join(f"{count:>18,}" for count in found))
    for part in PARTS:
        _line(part, [(one[0].get(part, 0.0), count) for count, one in found.items()])
    _line("in all", [(sum(one[0].values()), count) for count, one in found.items()])
    for what, place in (("resident bytes a row", 1), ("tokens a row", 2)):
        print(f"{what:<32}" + "".join(f"{one[place]:18.0f}" for one in found.values()), flush=True)


def _line(name: str, cells: Sequence[tuple[float, int]]) -> None:
    shown = (f"{seconds:9.2f} ({1e6 * seconds / count:5.0f})" for seconds, count in cells)
    print(f"{name:<32}" + "".join(f"{cell:>18}" for cell in shown))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", nargs="+", type=int, default=[5000, 10000, 20000])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--model", default="pico-qwen", help="a bundled model, or a folder")
    return parser.parse_args()


if __name__ == "__main__":
    main()
