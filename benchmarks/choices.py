"""Choices behind a prompt that is read once, against each choice with its prompt read anew.

Random weights of a real class: what is measured is arithmetic, not ability. Both ways score the
same batches of choices and take turns in one process.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable

from torch import nn

from benchmarks.models import qwen2
from benchmarks.timing import Timing
from narrowtune.data.encoding import Encoded
from narrowtune.data.example import Example, Message, TextPart
from narrowtune.evaluation.likelihood import score_choices, shared_totals, whole_totals
from narrowtune.evaluation.questions import Questions
from narrowtune.models.generation import evaluating
from narrowtune.models.processing import load_processing

QUESTIONS, CHOICES, BATCH, ROUNDS = 16, 4, 16, 3
PROMPT_TOKENS, CHOICE_TOKENS = (300, 500), (4, 12)
VOCABULARY = 8192

Totals = Callable[[nn.Module, Questions], list[float]]


def build_questions() -> Questions:
    """Prompts and choices of drawn tokens, of drawn lengths."""
    draw = random.Random(0)
    asked = [_question(draw) for _ in range(QUESTIONS)]
    return Questions(asked, load_processing("pico-qwen"), BATCH)


def _question(draw: random.Random) -> list[Encoded]:
    turns = (Message("user", (TextPart("?"),)), Message("assistant", (TextPart("!"),)))
    example = Example("drawn", turns, "drawn", ("!",))
    prompt = _tokens(draw, draw.randint(*PROMPT_TOKENS))
    choices = [_tokens(draw, draw.randint(*CHOICE_TOKENS)) for _ in range(CHOICES)]
    start = len(prompt)
    return [
        Encoded(example, prompt + one, (False,) * start + (True,) * len(one), start)
        for one in choices
    ]


def _tokens(draw: random.Random, count: int) -> tuple[int, ...]:
    return tuple(draw.randrange(VOCABULARY) for _ in range(count))


def _timed(run: Callable[[], list[float]], timing: Timing) -> list[float]:
    with timing.noting():
        return run()


def main() -> None:
    """Print choices per second, the speed-up taken side by side, and the largest difference."""
    model, questions = qwen2(VOCABULARY, tied=False), build_questions()
    ways: dict[str, Totals] = {
        "whole sequences": whole_totals,
        "prompt read once": shared_totals,
        "with its trial": lambda model, asked: [
            choice.total for choices in score_choices(model, asked) for choice in choices
        ],
    }
    timings = {name: Timing() for name in ways}
    apart = 0.0
    with evaluating(model):
        for turn in range(ROUNDS + 1):
            found = {
                name: _timed(lambda way=way: way(model, questions), timings[name])
                for name, way in ways.items()
            }
            whole = found["whole sequences"]
            for other in found.values():
                apart = max(apart, *(abs(a - b) for a, b in zip(whole, other, strict=True)))
            if not turn:  # the first round warms up
                timings = {name: Timing() for name in ways}
    _print(timings, apart)


def _print(timings: dict[str, Timing], apart: float) -> None:
    base = timings["whole sequences"]
    print(
        f"{QUESTIONS} questions of {CHOICES} choices, prompts of {PROMPT_TOKENS[0]} to "
        f"{PROMPT_TOKENS[1]} tokens, choices of {CHOICE_TOKENS[0]} to {CHOICE_TOKENS[1]}, "
        f"{BATCH} choices a batch; largest difference {apart:.1e} nats"
    )
    print(f"{'way':<18} {'wall s':>8} {'CPU s':>8} {'choices/CPU s':>14} {'speed-up':>9}")
    for name, timing in timings.items():
        ratio = 1 / timing.cpu_times(base)
        wall, cpu = statistics.median(timing.wall), statistics.median(timing.cpu)
        rate = QUESTIONS * CHOICES / cpu
        print(f"{name:<18} {wall:8.2f} {cpu:8.2f} {rate:14.1f} {ratio:8.2f}x")


if __name__ == "__main__":
    main()
