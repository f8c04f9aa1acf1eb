"""How a batch's samples lie in one sequence: each whole and in order, nothing shared by mistake."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from narrowtune.data.encoding import Encoded
from narrowtune.data.example import Example, ImagePart, Message
from narrowtune.data.sharing import Limits, groups, grow, lay_out
from narrowtune.errors import InputError

IMAGE = 9


def sample(ids: str, taught: int = 1, images: tuple[Path, ...] = (), line: int = 1) -> Encoded:
    """Digits as token ids, so many of them taught at the end."""
    shown = Message("user", tuple(ImagePart(path) for path in images))
    numbers = tuple(map(int, ids))
    start = len(numbers) - taught
    marks = (False,) * start + (True,) * taught
    return Encoded(Example("", (shown,), f"t.jsonl:{line}", ("",)), numbers, marks, start)


texts = st.tuples(st.text("012", min_size=2, max_size=14), st.integers(0, 3)).map(
    lambda drawn: sample(drawn[0], min(drawn[1], len(drawn[0]) - 1))
)
batches = st.lists(texts, min_size=1, max_size=12)
limits = st.builds(
    Limits,
    share=st.booleans(),
    fill=st.booleans(),
    tokens=st.none() | st.integers(1, 40),
    by_segments=st.booleans(),
)


@settings(max_examples=200, deadline=None)
@given(batches, limits)
def test_every_sample_lies_whole_and_in_order(batch: list[Encoded], limit: Limits) -> None:
    layout = lay_out(batch, None, limit)
    placed = [one for row in layout for one in row.samples]
    assert sorted(map(id, placed)) == sorted(map(id, batch))
    for row in layout:
        for one, places in zip(row.samples, row.places, strict=True):
            assert tuple(row.ids[place] for place in places) == one.input_ids
            assert list(places) == sorted(set(places))
        assert {place for places in row.places for place in places} == set(range(len(row)))


@settings(max_examples=200, deadline=None)
@given(batches, limits)
def test_a_taught_token_stands_behind_the_one_that_predicts_it(
    batch: list[Encoded], limit: Limits
) -> None:
    for row in lay_out(batch, None, limit):
        owners = [0] * len(row)
        taught = []
        for one, places in zip(row.samples, row.places, strict=True):
            for n, place in enumerate(places):
                owners[place] += 1
                if one.supervised[n]:
                    assert places[n - 1] == place - 1
                    taught.append(place)
        assert all(owners[place] == 1 for place in taught)
        # In the order of the samples, which is what remembers a teacher's words by sample.
        assert taught == [place for place, mark in enumerate(row.supervised) if mark]


@settings(max_examples=200, deadline=None)
@given(batches, limits)
def test_packing_never_costs_more_than_padding(batch: list[Encoded], limit: Limits) -> None:
    trees, layout = grow(batch, None, limit), lay_out(batch, None, limit)
    assert sum(map(len, layout)) == sum(map(len, trees)) <= sum(map(len, batch))
    assert len(layout) <= len(trees) <= len(batch)
    if not limit.by_segments:
        assert max(map(len, layout)) == max(map(len, trees))
    if limit.tokens is not None:
        assert all(len(tree) <= limit.tokens for tree in trees if len(tree.samples) > 1)


def test_a_common_start_is_written_once() -> None:
    one, other, third = sample("12345678"), sample("12345066"), sample("12345600")
    (tree,) = grow([one, other, third], None)
    # Sorted; the third shares one more with the first than both with the other.
    assert tree.samples == (other, third, one)
    assert tree.ids == (1, 2, 3, 4, 5, 0, 6, 6, 6, 0, 0, 7, 8)
    assert tree.places[2] == (0, 1, 2, 3, 4, 8, 11, 12)


def test_what_predicts_a_taught_token_is_not_shared() -> None:
    same = [sample("1234567", taught=2), sample("1234589", taught=2)]
    (tree,) = grow(same, None)
    assert tree.ids == (1, 2, 3, 4, 5, 6, 7, 5, 8, 9)
    # An earlier answer is taught to each: what both say is not written once.
    turns = [Encoded(one.example, one.input_ids, (False, False, True, *[False] * 3, True), 6)
             for one in (sample("1234567"), sample("1234569"))]  # fmt: skip
    (tree,) = grow(turns, None)
    assert tree.ids == (1, 2, 3, 4, 5, 6, 7, 2, 3, 4, 5, 6, 9)


def test_an_equal_text_on_another_image_is_not_shared(picture: Callable[..., Path]) -> None:
    first, second = picture("a.png", seed=1), picture("b.png", seed=2)
    copied = first.with_name("copy.png")
    copied.write_bytes(first.read_bytes())
    asked = [sample("0999123", images=(path,)) for path in (first, second, copied)]
    trees = grow(asked, IMAGE)
    assert sorted(len(tree.samples) for tree in trees) == [1, 2]
    (pair,) = (tree for tree in trees if len(tree.samples) == 2)
    assert {one.example.images for one in pair.samples} == {(first,), (copied,)}
    assert groups(asked, IMAGE)[0] == groups(asked, IMAGE)[2] != groups(asked, IMAGE)[1]


def test_all_images_are_shared_or_none(picture: Callable[..., Path]) -> None:
    first, second, third = (picture(f"{n}.png", seed=n) for n in range(3))
    both = [sample("0999899723", images=(first, second)) for _ in range(2)]
    (tree,) = grow(both, IMAGE)
    assert tree.images == (first, second) and tree.ids.count(IMAGE) == 5
    other = sample("0999899723", images=(first, third))
    assert len(grow([both[0], other], IMAGE)) == 2
    # Words before the images differ: each sample's images come after what is its own.
    late = [sample("5" * 9 + f"{n}99123", images=(first,)) for n in range(2)]
    assert len(grow(late, IMAGE)) == 2


def test_long_branches_behind_little_are_left_alone() -> None:
    """A system prompt of a few tokens is not worth the attention over all the rest."""
    short = [sample("12" * 10 + f"{n}" * 10) for n in range(4)]
    assert len(grow(short, None)) == 1
    long = [sample("12" * 10 + f"{n}" * 900) for n in range(4)]
    assert len(grow(long, None)) == 4
    assert len(grow(short, None, Limits(share=False))) == 4


def test_by_segments_all_lies_in_one_sequence_and_branches_do_not_count_each_other() -> None:
    long = [sample("12" * 200 + f"{n}" * 900) for n in range(4)]
    assert len(grow(long, None)) == 2
    (tree,) = grow(long, None, Limits(by_segments=True))
    assert len(tree) == 400 + 4 * 900
    little = [sample("12" * 10 + f"{n}" * 900) for n in range(4)]
    assert len(grow(little, None, Limits(by_segments=True))) == 4
    apart = Limits(share=False, by_segments=True)
    (row,) = lay_out([sample("0" * n) for n in (5, 9, 7)], None, apart)
    assert [len(one) for one in row.trees] == [9, 7, 5]
    pairs = lay_out(
        [sample("0" * n) for n in (5, 9, 7, 4)],
        None,
        Limits(share=False, by_segments=True, tokens=13),
    )
    assert [len(row) for row in pairs] == [13, 12]


def test_a_long_sample_has_a_sequence_for_itself_or_is_refused() -> None:
    long, short = sample("0" * 30, line=3), sample("12345")
    rows = lay_out([short, long, short], None, Limits(tokens=12))
    assert [len(row) for row in rows] == [30, 7]
    with pytest.raises(InputError, match=r"t\.jsonl:3: 30 tokens are more than the 20 that"):
        lay_out([short, long], None, Limits(longest=20))
    with pytest.raises(InputError, match="its first token is taught"):
        lay_out([sample("123", taught=3)], None)


def test_samples_without_images_are_not_taught_together_for_their_start() -> None:
    assert len(set(groups([sample("123455"), sample("123455")], None))) == 2
