"""A base, a model that has drifted from it, and the texts both are read on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import nn

from narrowtune.data import read_examples
from narrowtune.data.encoding import Encoded, encode_all
from narrowtune.models.processing import Processing

Chances = Callable[[nn.Module, Encoded, Processing], torch.Tensor]


@pytest.fixture(scope="session")
def texts(drawn: Path, processing: Processing) -> list[Encoded]:
    """Prompts with answers of several lengths: words, yes or no, whole captions."""
    names = ("reading", "captions", "existence")
    rows = [row for name in names for row in read_examples(drawn / name / "test.jsonl")[:4]]
    return encode_all(rows, processing)


@pytest.fixture(scope="session")
def base() -> nn.Module:
    """`pico-qwen`, untouched; no test may change it."""
    from narrowtune.models.loading import load_model

    return load_model("pico-qwen", device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def drifted() -> nn.Module:
    """`pico-qwen` with noise on its MLPs."""
    from narrowtune.models.loading import load_model

    model = load_model("pico-qwen", device="cpu", dtype="float32")
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "language_model" in name and "mlp" in name:
                weight += 0.02 * torch.randn(weight.shape, generator=draw)
    return model


@pytest.fixture(scope="session")
def slowly() -> Callable[[nn.Module, Sequence[Encoded], Processing], list[torch.Tensor]]:
    """Next-token probabilities at each answer token, one text and one plain forward at a time."""
    from narrowtune.data.batching import collate

    def read(
        model: nn.Module, rows: Sequence[Encoded], processing: Processing
    ) -> list[torch.Tensor]:
        found = []
        for row in rows:
            batch = collate([row], processing, padding_side="right")
            with torch.no_grad():
                logits = model(**batch.inputs).logits[0].double()
            places = [at - 1 for at, taught in enumerate(row.supervised) if taught]
            found.append(torch.stack([logits[at].softmax(dim=-1) for at in places]))
        return found

    return read
