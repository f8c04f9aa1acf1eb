"""What a quantised base saves and costs, beside a plain one; and what `plan` says of both.

Peaks are of `narrowtune run`, in a process of its own each, less those of a process that has
imported everything and loaded nothing; predictions are `plan`'s, in processes of their own too.
Seconds are of steps that take turns in one process.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import shutil
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.memory_knobs import Knobs, Learner
from benchmarks.models import VOCABULARY, processing_of
from narrowtune.data.batching import Batch, collate
from narrowtune.engine import peak_bytes
from narrowtune.engine.resident import process_bytes
from narrowtune.experiment import parse_experiment
from narrowtune.models.loading import load_model
from narrowtune.models.skeleton import BUNDLED
from narrowtune.runner import Options, Plan, plan, run
from narrowtune.runner.cost import Costs

BATCH, TOKENS, STEPS, ROUNDS = 4, 200, 2, 3
PLAIN, NF4 = "none", "nf4"


@dataclass(frozen=True)
class Shape:
    """A Qwen2 of some size: most of its numbers in the embedding, or in matrices of layers."""

    name: str
    vocabulary: int
    width: int
    inner: int
    layers: int

    def write(self, folder: Path) -> None:
        """The model with drawn weights, a tokenizer beside it, and texts."""
        from transformers import Qwen2Config, Qwen2ForCausalLM

        torch.manual_seed(0)
        config = Qwen2Config(
            vocab_size=self.vocabulary,
            hidden_size=self.width,
            intermediate_size=self.inner,
            num_hidden_layers=self.layers,
            num_attention_heads=8,
            num_key_value_heads=2,
            tie_word_embeddings=True,
        )
        Qwen2ForCausalLM(config).save_pretrained(folder / "model")
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            shutil.copyfile(BUNDLED["pico-qwen"] / name, folder / "model" / name)
        _write_texts(folder / "train.jsonl")


SHAPES = (
    Shape("512 wide, 8 layers, 151,936 words", VOCABULARY, 512, 1376, 8),
    Shape("1024 wide, 16 layers, 8,192 words", 8192, 1024, 4096, 16),
)


def _write_texts(path: Path) -> None:
    drawn = random.Random(0)
    words = ("red", "blue", "green", "circle", "square", "triangle", "above", "below", "two")
    lines = []
    for _ in range(BATCH * STEPS):
        text = " ".join(drawn.choices(words, k=TOKENS))
        said = [{"role": "user", "content": text}, {"role": "assistant", "content": "two"}]
        lines.append(json.dumps({"messages": said}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def planned(folder: Path, recipe: str, quantization: str) -> Plan:
    """Two steps, nothing scored."""
    given = {
        "model": {"id": "model", "dtype": "float32", "quantization": quantization},
        "stages": [{"name": "words", "train": "train.jsonl"}],
        "arms": [{"name": "arm", "recipe": recipe}],
        "training": {"batch_size": BATCH, "steps": STEPS},
        "evaluate": [],
    }
    return plan(parse_experiment(given), folder)


def predicted(folder: Path, recipe: str, quantization: str) -> int:
    """Bytes at the peak, the process included, by `plan`."""
    made = planned(folder, recipe, quantization)
    return Costs(made).of(made.arms[0]).peak


def measured(folder: Path, recipe: str, quantization: str) -> int:
    """Bytes at the peak, the process included, in a run."""
    made = planned(folder, recipe, quantization)
    options = Options(device="cpu", save_models=False)
    record = run(made, folder / f"{recipe}-{quantization}", options=options)
    return record.cost[0].peak_bytes


def empty(folder: Path, recipe: str, quantization: str) -> int:
    """Bytes of a process that has planned and loaded nothing."""
    planned(folder, recipe, quantization)
    return min(process_bytes(), peak_bytes(torch.device("cpu")))


def apart(what: Callable[..., int], *given: Any) -> int:
    """What a function finds in a process of its own."""
    fresh = multiprocessing.get_context("spawn")
    with fresh.Pool(1, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return pool.apply(what, given)


def seconds(folder: Path, recipe: str) -> dict[str, tuple[float, float]]:
    """CPU seconds of a step on each base, and as a multiple of the plain one's."""
    learners = {}
    for kind in (PLAIN, NF4):
        made = planned(folder, recipe, kind)
        model = load_model(str(folder / "model"), device="cpu", quantization=made.quantization)
        learners[kind] = _learner(model, made, recipe)
    batch = _batch(folder, made)
    for number in range(ROUNDS + 1):
        for one in learners.values():
            one.step(batch)
            if not number:  # the first round warms up
                one.timing.cpu.clear()
                one.timing.wall.clear()
    base = learners[PLAIN].timing
    return {
        kind: (statistics.median(one.timing.cpu), one.timing.cpu_times(base))
        for kind, one in learners.items()
    }


def _learner(model: nn.Module, made: Plan, recipe: str) -> Learner:
    return Learner(model, recipe, Knobs(recipe), anatomy=made.anatomy)


def _batch(folder: Path, made: Plan) -> Batch:
    rows = made.stages[0].rows[:BATCH]
    return collate(rows, processing_of(folder / "model"), padding_side="right")


def main() -> None:
    """Print peaks, predictions and seconds of both bases, side by side."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", nargs="+", default=["gate-up", "attention"])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for shape in SHAPES:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            shape.write(folder)
            for recipe in asked.recipe:
                _print(shape, recipe, folder)


def _print(shape: Shape, recipe: str, folder: Path) -> None:
    packed = planned(folder, recipe, NF4).quantization
    nothing = apart(empty, folder, recipe, PLAIN)
    peaks = {kind: apart(measured, folder, recipe, kind) for kind in (PLAIN, NF4)}
    told = {kind: apart(predicted, folder, recipe, kind) for kind in (PLAIN, NF4)}
    taken = seconds(folder, recipe)
    print(f"\n{shape.name}, {recipe}, {BATCH} x {TOKENS} words, fp32, one thread")
    print(f"packed: {packed}; process without a model: {nothing / 2**20:.0f} MiB")
    columns = ("base", "MiB", "above it", "predicted", "off", "CPU s", "/ plain")
    print("".join(f"{name:>11}" for name in columns))
    for kind in (PLAIN, NF4):
        peak, plans = peaks[kind] / 2**20, told[kind] / 2**20
        print(
            f"{kind:>11}{peak:11.0f}{peak - nothing / 2**20:11.0f}{plans:11.0f}"
            f"{100 * (plans / peak - 1):+10.1f}%{taken[kind][0]:11.2f}{taken[kind][1]:11.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
