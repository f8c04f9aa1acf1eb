"""Class offsets: fitted to the base's shares, by hand and by law."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from narrowtune.data.encoding import Encoded
from narrowtune.models.processing import Processing
from narrowtune.probes.classes import TokenClass, finest_classes, rule_classes, token_texts
from narrowtune.probes.offsets import LARGEST, class_offsets, token_offsets, without_common
from narrowtune.probes.reference import Positions, Reference


def test_one_position_by_hand() -> None:
    """Odds of 1 to 9 become 6 to 4: the offset is the log of their ratio."""
    (offset,) = class_offsets(np.array([[0.6]]), np.array([[0.1]]))
    assert offset == pytest.approx(math.log((0.6 / 0.4) / (0.1 / 0.9)), abs=1e-6)


masses = st.lists(
    st.tuples(*[st.floats(0.02, 1.0)] * 4).map(lambda row: [x / sum(row) for x in row][:3]),
    min_size=1,
    max_size=12,
)


@settings(deadline=None, max_examples=60)
@given(masses, masses)
def test_afterwards_the_means_agree(base: list[list[float]], tuned: list[list[float]]) -> None:
    offsets = class_offsets(np.array(base), np.array(tuned))
    weights = np.array([[*row, 1 - sum(row)] for row in tuned]) * np.exp([*offsets, 0.0])
    shares = (weights / weights.sum(axis=1, keepdims=True)).mean(axis=0)[:3]
    assert shares == pytest.approx(np.array(base).mean(axis=0), abs=1e-4)


def test_nothing_to_correct_gives_nothing() -> None:
    same = np.array([[0.2, 0.3], [0.1, 0.8]])
    assert class_offsets(same, same) == pytest.approx([0.0, 0.0], abs=1e-6)
    assert class_offsets(np.zeros((0, 2)), np.zeros((0, 2))).tolist() == [0.0, 0.0]


def test_what_the_base_never_says_is_pushed_away_within_bounds() -> None:
    (offset,) = class_offsets(np.array([[0.0]]), np.array([[0.9]]))
    assert -LARGEST <= offset < -5


def test_an_offset_that_would_have_to_be_larger_is_named() -> None:
    """From 1e-7 the bound brings a class to 0.25, where the base has 0.5."""
    classes = (TokenClass("a", (0,)), TokenClass("b", (1,)))
    positions = Positions(torch.tensor([0, 0]), torch.tensor([True, False]))
    base = {"a": torch.tensor([0.5, 0.5]), "b": torch.tensor([0.0, 0.0])}
    tuned = {"a": torch.tensor([1e-7, 0.5]), "b": torch.tensor([0.0, 0.9e-9])}
    found, short = token_offsets(classes, positions, (base, tuned), 3)
    assert short == ("a (first token)",), "nothing is missed where b is pushed away"
    assert found.first[0] == pytest.approx(LARGEST)


def test_first_and_later_tokens_have_offsets_of_their_own() -> None:
    classes = (TokenClass("a", (0, 2)), TokenClass("b", (3,)))
    positions = Positions(torch.tensor([0, 0, 1]), torch.tensor([True, False, True]))
    base = {"a": torch.tensor([0.5, 0.2, 0.5]), "b": torch.tensor([0.1, 0.2, 0.1])}
    tuned = {"a": torch.tensor([0.1, 0.2, 0.1]), "b": torch.tensor([0.5, 0.2, 0.5])}
    found, short = token_offsets(classes, positions, (base, tuned), 5)
    assert short == ()
    assert found.later.tolist() == pytest.approx([0.0] * 5, abs=1e-6)
    up, down = math.log(5), math.log(0.2)  # the rest keeps its 0.4
    assert found.first.tolist() == pytest.approx([up, 0, up, down, 0], abs=1e-4)


def test_a_token_of_two_classes_stays_in_the_first() -> None:
    given = [TokenClass("a", (1, 2)), TokenClass("b", (2, 3)), TokenClass("c", (1,))]
    assert without_common(given) == (TokenClass("a", (1, 2)), TokenClass("b", (3,)))


def test_yes_no_and_letters_are_told_apart(processing: Processing) -> None:
    texts = token_texts(processing.tokenizer)
    fine = {
        one.name: {texts[token] for token in one.ids}
        for one in finest_classes(processing.tokenizer)
    }
    assert {text.lower() for text in fine["yes_no:yes"]} == {"yes"}
    assert {text.lower() for text in fine["yes_no:no"]} == {"no"}
    assert fine["letter:a"] == {"A"}
    whole = {one.name: set(one.ids) for one in rule_classes(processing.tokenizer)}
    fine_ids = {one.name: set(one.ids) for one in finest_classes(processing.tokenizer)}
    for name, ids in whole.items():
        assert ids == set().union(*(v for k, v in fine_ids.items() if k.split(":")[0] == name))


def test_on_a_real_model_the_corrected_shares_are_the_bases(
    base: nn.Module, drifted: nn.Module, texts: Sequence[Encoded], processing: Processing
) -> None:
    classes = without_common(finest_classes(processing.tokenizer))
    reference = Reference("texts", texts, processing, 4)
    reference.remember(base)
    places = reference.positions
    before = reference.compare(base, classes)[0].masses
    after = reference.compare(drifted, classes)[0].masses
    found, _ = token_offsets(classes, places, (before, after), reference.vocabulary)
    logits = torch.cat(list(reference._expected(drifted)))
    corrected = found.at(logits, places.first).softmax(-1)
    for one in classes:
        for there in (places.first, ~places.first):
            wanted = before[one.name][there].mean()
            got = corrected[there][:, list(one.ids)].sum(-1).mean()
            assert float(got) == pytest.approx(float(wanted), abs=2e-3)
