"""Fixed-reference probes against plain forwards and formulas written out one term at a time."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from narrowtune.data.encoding import Encoded
from narrowtune.errors import InputError
from narrowtune.models.processing import Processing
from narrowtune.probes import keeping
from narrowtune.probes.classes import TokenClass, rule_classes
from narrowtune.probes.distances import distances, kl_divergence
from narrowtune.probes.reference import Reference


@pytest.fixture(scope="module")
def read(texts: list[Encoded], processing: Processing, base: nn.Module) -> Reference:
    reference = Reference("mixed", texts, processing, batch_size=5)
    reference.remember(base)
    return reference


def by_position(reference: Reference, column: torch.Tensor, number: int) -> torch.Tensor:
    return column[reference.positions.sample == number]


def test_every_number_agrees_with_a_slow_reading(
    read: Reference, texts: list[Encoded], processing: Processing, base, drifted, slowly
) -> None:
    classes = rule_classes(processing.tokenizer)
    found, moved = read.compare(drifted, classes)
    before, after = slowly(base, texts, processing), slowly(drifted, texts, processing)
    for number, (text, p, q) in enumerate(zip(texts, before, after, strict=True)):
        kl = [sum(a * math.log(a / b) for a, b in row if a > 0) for row in _pairs(p, q)]
        back = [sum(b * math.log(b / a) for a, b in row if b > 0) for row in _pairs(p, q)]
        spread = [-sum(b * math.log(b) for b in row if b > 0) for row in q.tolist()]
        assert by_position(read, found.kl, number).tolist() == pytest.approx(kl, abs=1e-5)
        assert by_position(read, found.reverse_kl, number).tolist() == pytest.approx(back, abs=1e-5)
        assert by_position(read, found.entropy, number).tolist() == pytest.approx(spread, abs=1e-5)
        right = [t for t, taught in zip(text.input_ids, text.supervised, strict=True) if taught]
        lost = [math.log(a[t] / b[t]) for a, b, t in zip(p, q, right, strict=True)]
        grown = by_position(read, found.answer_loss, number).tolist()
        assert grown == pytest.approx(lost, abs=1e-4)
        same = [float(int(a.argmax()) == int(b.argmax())) for a, b in zip(p, q, strict=True)]
        assert by_position(read, found.top1, number).tolist() == same
        ten = [
            len({*a.topk(10).indices.tolist()} & {*b.topk(10).indices.tolist()}) / 10
            for a, b in zip(p, q, strict=True)
        ]
        assert by_position(read, found.top10, number).tolist() == pytest.approx(ten)
        for one in classes:
            mass = [sum(row[token] for token in one.ids) for row in q.tolist()]
            seen = by_position(read, found.masses[one.name], number).tolist()
            assert seen == pytest.approx(mass, abs=1e-5)
    change = (torch.cat(after) - torch.cat(before)).mean(dim=0)
    assert torch.allclose(moved, change.float(), atol=1e-6)
    assert float(found.kl.mean()) > 0.01  # the noise does matter


def _pairs(p: torch.Tensor, q: torch.Tensor) -> list[list[tuple[float, float]]]:
    rows = zip(p.tolist(), q.tolist(), strict=True)
    return [list(zip(one, other, strict=True)) for one, other in rows]


def test_a_model_has_not_drifted_from_itself(read: Reference, base: nn.Module) -> None:
    found, moved = read.compare(base, ())
    assert float(found.kl.abs().max()) == 0.0
    assert float(found.top1.min()) == float(found.top10.min()) == 1.0
    assert float(moved.abs().max()) == 0.0


def test_positions_are_answer_tokens_and_the_first_of_each(
    read: Reference, texts: list[Encoded]
) -> None:
    positions = read.positions
    for number, row in enumerate(texts):
        mine = positions.first[positions.sample == number]
        assert len(mine) == row.supervised_tokens
        assert mine.tolist() == [True, *[False] * (row.supervised_tokens - 1)]


def test_the_batch_size_changes_nothing(
    read: Reference, texts: list[Encoded], processing: Processing, base, drifted
) -> None:
    single = Reference("mixed", texts, processing, batch_size=1)
    single.remember(base)
    for number in range(len(texts)):
        one, other = (
            by_position(reference, reference.compare(drifted, ())[0].kl, number)
            for reference in (read, single)
        )
        assert torch.allclose(one, other, atol=1e-5)


def test_a_large_base_lies_in_a_file_and_gives_the_same(
    read: Reference, texts: list[Encoded], processing, base, drifted, monkeypatch
) -> None:
    monkeypatch.setattr(keeping, "KEPT_BYTES", 0)
    mapped = Reference("mixed", texts, processing, batch_size=5)
    mapped.remember(base)
    assert torch.equal(mapped.compare(drifted, ())[0].kl, read.compare(drifted, ())[0].kl)


def test_another_vocabulary_and_a_missing_base_are_told(
    read: Reference, texts: list[Encoded], processing: Processing
) -> None:
    from narrowtune.models.loading import load_model

    longer = load_model("pico-qwen", device="cpu", dtype="float32")
    longer.resize_token_embeddings(len(processing.tokenizer) + 40, mean_resizing=False)
    with pytest.raises(InputError, match="only models of one vocabulary compare"):
        read.compare(longer, ())
    with pytest.raises(InputError, match="no base has been read yet"):
        Reference("mixed", texts, processing).compare(longer, ())


LOGITS = st.lists(st.floats(-20, 20, width=32), min_size=12, max_size=12)


@given(LOGITS, LOGITS)
def test_divergence_is_never_negative_and_zero_on_itself(one, other) -> None:
    p, q = (torch.tensor([x], dtype=torch.float64).log_softmax(-1) for x in (one, other))
    assert float(kl_divergence(p, q)) >= -1e-12
    assert float(kl_divergence(p, p)) == 0.0


@given(LOGITS, LOGITS)
def test_shares_stay_shares(one, other) -> None:
    p, q = (torch.tensor([x]).log_softmax(-1) for x in (one, other))
    right = torch.tensor([4])
    classes = [TokenClass("some", (0, 3)), TokenClass("rest", (1, 2, *range(4, 12)))]
    found = distances(p, q, right, classes)
    assert 0 <= float(found.top10) <= 1
    assert float(found.masses["some"] + found.masses["rest"]) == pytest.approx(1, abs=1e-5)
    assert 0 <= float(found.entropy) <= math.log(12) + 1e-4
    assert float(found.answer_loss) == pytest.approx(float(p[0, 4] - q[0, 4]), abs=1e-5)


def test_what_a_model_rules_out_counts_nothing() -> None:
    p = torch.tensor([[0.0, -math.inf]])
    q = torch.tensor([[0.5, 0.5]]).log()
    assert float(kl_divergence(p, q)) == pytest.approx(math.log(2))
    assert float(kl_divergence(q, p)) == math.inf
