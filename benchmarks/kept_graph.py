"""What a graph keeps for the backward pass, and what computing it again costs.

Elementwise results are kept or made again, and a tied embedding has a dense gradient or rows.
One question per image, the mid-size Qwen2.5-VL with drawn weights. The ways take turns in one
process on one model; losses and gradients must agree, where results are computed again to the bit.
Peaks are of processes of their own.

python -m benchmarks.kept_graph [--arms ...] [--rounds N]
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.models import QWEN, drawn_model, processing_of
from benchmarks.scenes import SCENES, lesson
from benchmarks.timing import Timing
from narrowtune.anatomy import Anatomy
from narrowtune.data.batching import Batch
from narrowtune.engine import peak_bytes, reset_peak
from narrowtune.models.recomputing import recomputing_elementwise
from narrowtune.models.tied_embedding import tied_rows_alone
from narrowtune.runner.frozen import frozen_towers_without_gradient
from narrowtune.training.loop import answer_loss

Way = Sequence[Callable[[nn.Module], AbstractContextManager[None]]]
AGAIN = "computed again"
WAYS: dict[str, Way] = {
    "all kept": (),
    AGAIN: (lambda model: recomputing_elementwise(),),
    "tied rows": (tied_rows_alone,),
    "both": (lambda model: recomputing_elementwise(), tied_rows_alone),
}


@contextmanager
def taught(model: nn.Module, way: str) -> Iterator[None]:
    """What surrounds a step in one of the ways."""
    with ExitStack() as stack:
        stack.enter_context(frozen_towers_without_gradient(model, Anatomy.of(model), ["language"]))
        for context in WAYS[way]:
            stack.enter_context(context(model))
        yield


def step(model: nn.Module, batch: Batch, way: str) -> dict[str, Tensor]:
    """Loss and gradients of a batch."""
    with taught(model, way):
        loss = answer_loss(model, batch) / batch.supervised_tokens
        torch.autograd.backward(loss)
    trained = [(name, one) for name, one in model.named_parameters() if one.grad is not None]
    found = {name: one.grad for name, one in trained if one.grad is not None}
    model.zero_grad(set_to_none=True)
    return {**found, "loss": loss.detach()}


def prepared(folder: Path, pictures: Path, arm: str) -> tuple[nn.Module, Batch]:
    """The model in training mode, and a batch."""
    model = drawn_model(folder).train()
    Anatomy.of(model).select([arm]).apply(model)
    return model, lesson(SCENES[0], arm, processing_of(folder), pictures, 1).batches[0]


def peak_above_model(place: tuple[Path, Path], arm: str, way: str) -> int:
    """Bytes at the peak of two steps without an optimiser, in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measured, (place, arm, way))


def _measured(place: tuple[Path, Path], arm: str, way: str) -> int:
    model, batch = prepared(*place, arm)
    gc.collect()
    cpu = torch.device("cpu")
    reset_peak(cpu)
    before = peak_bytes(cpu)
    for _ in range(2):
        step(model, batch, way)
    return peak_bytes(cpu) - before


def timed(model: nn.Module, batch: Batch, rounds: int) -> dict[str, Timing]:
    """Seconds by way; the first round warms up.

    Raises:
        AssertionError: Losses or gradients differ.
    """
    timings = {way: Timing() for way in WAYS}
    for turn in range(rounds + 1):
        plain: dict[str, Tensor] = {}
        for way, timing in timings.items():
            with (timing if turn else Timing()).noting():
                found = step(model, batch, way)
            plain = plain or found
            assert plain.keys() == found.keys()
            for name, one in plain.items():
                exact = way == AGAIN
                allowed = 0.0 if exact else 1e-5 * float(one.abs().max())
                assert float((found[name] - one).abs().max()) <= allowed, f"{way}: {name} differs"
    return timings


def main() -> None:
    """Print CPU seconds and peaks of each way."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--arms", nargs="+", default=["gate-up", "attention", "language"])
    parser.add_argument("--rounds", type=int, default=4)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        place = QWEN.write(Path(made) / "model"), Path(made)
        for arm in asked.arms:
            model, batch = prepared(*place, arm)
            timings = timed(model, batch, asked.rounds)
            del model
            print(f"\n{QWEN.name}, {SCENES[0].name}, {arm}: forward and backward")
            print(f"{'way':<16} {'CPU s':>7} {'/ all kept':>11} {'peak MiB':>9}")
            for way, timing in timings.items():
                peak = peak_above_model(place, arm, way) / 2**20
                base = timings["all kept"]
                seconds, times = statistics.median(timing.cpu), timing.cpu_times(base)
                print(f"{way:<16} {seconds:7.2f} {times:10.2f}x {peak:9.0f}", flush=True)


if __name__ == "__main__":
    main()
