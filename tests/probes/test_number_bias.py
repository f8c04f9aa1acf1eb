"""The paper's number-token bias against a reference that decodes without cache, token by token."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

import pytest
import torch
from torch import nn

from narrowtune.data import read_examples
from narrowtune.data.batches import Batches
from narrowtune.data.batching import collate
from narrowtune.data.encoding import Encoded, encode_prompt
from narrowtune.errors import InputError
from narrowtune.models.processing import Processing
from narrowtune.probes.classes import TokenClass, number_tokens
from narrowtune.probes.number_bias import number_bias
from narrowtune.probes.readings import caption_readings

LONGEST = 12


@pytest.fixture(scope="module")
def prompts(drawn: Path, processing: Processing) -> list[Encoded]:
    rows = read_examples(drawn / "captions" / "test.jsonl")
    return [encode_prompt(row, processing) for row in rows]


def slow_caption(
    model: nn.Module, prompt: Encoded, processing: Processing, numbers: set[int]
) -> tuple[list[float], list[float]]:
    """At each token of the greedy caption: the largest number probability, and their sum."""
    ids, largest, summed = list(prompt.input_ids), [], []
    for _ in range(LONGEST):
        row = Encoded(prompt.example, tuple(ids), (False,) * len(ids), len(ids))
        batch = collate([row], processing, padding_side="right")
        with torch.no_grad():
            chances = model(**batch.inputs).logits[0, -1].float().softmax(dim=-1).tolist()
        largest.append(max(chances[token] for token in numbers))
        summed.append(sum(chances[token] for token in numbers))
        ids.append(max(range(len(chances)), key=lambda token: chances[token]))
        if ids[-1] in processing.end_token_ids:
            break
    return largest, summed


@pytest.mark.parametrize("which", ["base", "drifted"])
def test_it_agrees_with_the_slow_reference(
    which: str, request, prompts: list[Encoded], processing: Processing
) -> None:
    model, numbers = request.getfixturevalue(which), number_tokens(processing.tokenizer)
    batches = Batches(prompts, processing, 5, "left")
    found = number_bias(model, processing, batches, numbers, LONGEST)
    slow = [slow_caption(model, prompt, processing, {*numbers.ids}) for prompt in prompts]
    for caption, (largest, summed) in zip(found, slow, strict=True):
        assert caption.tokens == len(largest)
        assert caption.bias == pytest.approx(fmean(largest), abs=1e-5)
        assert caption.summed == pytest.approx(fmean(summed), abs=1e-5)
        assert caption.peak == pytest.approx(max(largest), abs=1e-5)
    expected = fmean(fmean(largest) for largest, _ in slow)
    (paper, *_) = caption_readings("captions", found)
    assert (paper.probe, paper.n) == ("number_bias", len(prompts))
    assert paper.value == pytest.approx(expected, abs=1e-5)
    assert len({caption.tokens for caption in found}) > 1 or which == "drifted"


def test_a_model_that_only_counts_is_biased(
    prompts: list[Encoded], processing: Processing, base: nn.Module
) -> None:
    numbers = number_tokens(processing.tokenizer)
    head = base.get_output_embeddings()

    def louder(_module: nn.Module, _args: object, logits: torch.Tensor) -> torch.Tensor:
        logits[..., list(numbers.ids)] += 50.0
        return logits

    handle = head.register_forward_hook(louder)
    try:
        batches = Batches(prompts[:3], processing, 3, "left")
        found = number_bias(base, processing, batches, numbers, 4)
    finally:
        handle.remove()
    assert all(caption.summed == pytest.approx(1, abs=1e-4) for caption in found)
    assert all(caption.bias <= caption.summed + 1e-6 for caption in found)
    assert all(caption.bias <= caption.peak for caption in found)


def test_without_number_tokens_there_is_no_zero(
    prompts: list[Encoded], processing: Processing, base: nn.Module
) -> None:
    batches = Batches(prompts[:1], processing, 1, "left")
    with pytest.raises(InputError, match="not available: the tokenizer has no number"):
        number_bias(
            base, processing, batches, TokenClass("number", (), "the tokenizer has no number"), 4
        )
