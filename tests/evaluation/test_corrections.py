"""Corrected output: offsets on logits and answers out of a closed set, on real models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from narrowtune.data import read_examples
from narrowtune.data.encoding import encode
from narrowtune.data.example import Message, TextPart
from narrowtune.evaluation import PreparedTask, prepare, score
from narrowtune.evaluation.hints import answer_space
from narrowtune.evaluation.likelihood import shared_totals, whole_totals
from narrowtune.evaluation.questions import Questions
from narrowtune.models.correcting import AnswerSpace, TokenOffsets
from narrowtune.models.processing import Processing
from narrowtune.models.supervised import predicting, supervised_logits


def offsets(tokens: dict[int, float], size: int, later: float = 0.0) -> TokenOffsets:
    first = torch.zeros(size)
    for token, value in tokens.items():
        first[token] = value
    return TokenOffsets(first, torch.full((size,), later))


@pytest.fixture(scope="module")
def existence(drawn: Path, processing: Processing) -> PreparedTask:
    rows = read_examples(drawn / "existence" / "test.jsonl")
    return prepare(processing, rows, {"metric": "yes_no", "max_new_tokens": 3})


def says(task: PreparedTask, word: str) -> int:
    (token, *_) = task.processing.tokenizer(word, add_special_tokens=False)["input_ids"]
    return int(token)


def test_an_offset_makes_the_model_say_yes_and_no_offset_changes_nothing(
    pico_model: Callable[[], nn.Module], existence: PreparedTask
) -> None:
    model, size = pico_model(), len(existence.processing.tokenizer)
    plain = score(model, existence).samples
    assert {row["prediction"] for row in plain} == {"yes", "no"}
    assert score(model, existence, offsets({}, size)).samples == plain
    pushed = score(model, existence, offsets({says(existence, "yes"): 50.0}, size)).samples
    assert {row["prediction"] for row in pushed} == {"yes"}


def test_the_same_number_on_every_token_is_no_correction(
    pico_model: Callable[[], nn.Module], existence: PreparedTask
) -> None:
    model, size = pico_model(), len(existence.processing.tokenizer)
    everywhere = TokenOffsets(torch.full((size,), 3.0), torch.full((size,), -2.0))
    assert score(model, existence, everywhere).samples == score(model, existence).samples


def test_likelihoods_with_offsets_are_those_of_the_moved_logits(
    pico_model: Callable[[], nn.Module], existence: PreparedTask
) -> None:
    model, size = pico_model(), len(existence.processing.tokenizer)
    rows = [replace(row, choices=("yes", "no", "red square")) for row in existence.examples]
    task = prepare(existence.processing, rows, {"metric": "yes_no", "scoring": "likelihood-sum"})
    assert isinstance(task.batches, Questions)
    moved = TokenOffsets(torch.linspace(-4, 4, size), torch.linspace(1, -1, size))
    with torch.no_grad():
        shared, whole = (
            totals(model, task.batches, moved) for totals in (shared_totals, whole_totals)
        )
        slow = [slowly(model, task, row, choice, moved) for row in rows for choice in row.choices]
    assert whole == pytest.approx(slow, abs=1e-4)
    assert shared == pytest.approx(whole, abs=1e-4)
    samples = score(model, task, moved).samples
    found = [choice["log_likelihood"] for row in samples for choice in row["choices"]]
    assert found == pytest.approx(slow, abs=1e-4)


def slowly(
    model: nn.Module, task: PreparedTask, row: object, choice: str, moved: TokenOffsets
) -> float:
    from narrowtune.data.batching import collate
    from narrowtune.evaluation.likelihood import encode_choices

    (one,) = encode_choices(replace(row, choices=(choice,)), task.processing)  # type: ignore[type-var]
    batch = collate([one], task.processing, padding_side="right")
    logits = supervised_logits(model, batch.inputs, predicting(batch.supervised)).float()
    logits[0] += moved.first
    logits[1:] += moved.later
    said = batch.inputs["input_ids"][batch.supervised]
    return float(logits.log_softmax(-1)[torch.arange(len(said)), said].sum())


def test_a_closed_set_is_answered_from_greedily(
    pico_model: Callable[[], nn.Module], drawn: Path, processing: Processing
) -> None:
    """On colours and words that the model would not say here, in answers of several tokens."""
    rows = read_examples(drawn / "existence" / "test.jsonl")
    answers = ("blue", "blue square", "a tree and a star")
    posed = [
        encode(replace(rows[0], messages=(*rows[0].prompt, said(answer))), processing)
        for answer in answers
    ]
    space = AnswerSpace(one.input_ids[one.prompt_length :] for one in posed)
    task = prepare(processing, rows, {"metric": "exact", "max_new_tokens": space.longest})
    found = [row["prediction"] for row in score(pico_model(), task, space).samples]
    assert set(found) <= set(answers)
    assert not any(row["truncated"] for row in score(pico_model(), task, space).samples)


def said(answer: str) -> Message:
    return Message("assistant", (TextPart(answer),))


def test_the_likeliest_allowed_token_is_taken() -> None:
    space = AnswerSpace([(5, 1), (5, 2, 1), (3, 1)])
    logits = torch.tensor([[9.0, 0, 0, 2, 8, 1, 0]])
    assert space(torch.zeros(1, 0, dtype=torch.long), logits).argmax() == 3
    after = space(torch.tensor([[5], [3]]), logits.repeat(2, 1))
    assert after.isfinite().nonzero().tolist() == [[0, 1], [0, 2], [1, 1]]
    ended = torch.tensor([[3, 1]])
    assert torch.equal(space(ended, logits), logits)
    assert space.longest == 3


def test_choices_cannot_be_restricted(
    pico_model: Callable[[], nn.Module], existence: PreparedTask
) -> None:
    rows = [replace(row, choices=("yes", "no")) for row in existence.examples]
    task = prepare(existence.processing, rows, {"metric": "yes_no", "scoring": "likelihood"})
    with pytest.raises(TypeError, match="not likelihoods"):
        score(pico_model(), task, AnswerSpace([(1, 2)]))


def test_the_answer_space_is_what_is_right_somewhere(existence: PreparedTask) -> None:
    assert set(answer_space(existence.examples)) == {"yes", "no"}
