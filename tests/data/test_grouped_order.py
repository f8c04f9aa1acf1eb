"""An order that keeps groups in one step: every sample once, full batches, few groups cut."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from narrowtune.data.grouped_order import grouped_order
from narrowtune.data.order import epoch_order, order_digest

samples = st.lists(st.tuples(st.integers(1, 500), st.integers(0, 60)), max_size=300)


@settings(max_examples=80, deadline=None)
@given(samples, st.integers(1, 40), st.integers(0, 3), st.integers(0, 3))
def test_every_sample_once_in_as_many_steps_as_ever(
    drawn: list[tuple[int, int]], batch_size: int, seed: int, epoch: int
) -> None:
    lengths, groups = [length for length, _ in drawn], [group for _, group in drawn]
    batches = grouped_order(lengths, groups, batch_size, seed, epoch)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert [len(b) for b in batches] == [len(b) for b in epoch_order(lengths, batch_size, 0, 0)]
    assert batches == grouped_order(lengths, groups, batch_size, seed, epoch)


def parts(batches: list[list[int]], groups: list[int]) -> list[int]:
    """Over how many steps each group is spread."""
    return [sum(any(groups[i] == g for i in b) for b in batches) for g in sorted(set(groups))]


def test_groups_that_fit_stay_whole() -> None:
    groups = [i // 4 for i in range(800)]
    assert set(parts(grouped_order([9] * 800, groups, 16, 0, 0), groups)) == {1}


def test_few_groups_are_cut() -> None:
    groups = [i // 6 for i in range(960)]
    spread = parts(grouped_order([9] * 960, groups, 16, 0, 0), groups)
    assert max(spread) == 2 and spread.count(2) <= 60  # one at most in each step
    # Of sizes that fill up each other none is cut but at the edges of windows.
    sizes = [1 + n % 8 for n in range(200)]
    groups = [group for group, size in enumerate(sizes) for _ in range(size)]
    spread = parts(grouped_order([9] * len(groups), groups, 16, 0, 0), groups)
    assert spread.count(2) <= 8 and max(spread) <= 2


def test_a_large_group_takes_as_few_steps_as_it_can() -> None:
    groups = [0] * 50 + [i for i in range(1, 79)]
    spread = parts(grouped_order([9] * 128, groups, 16, 0, 0), groups)
    assert spread[0] <= 5 and set(spread[1:]) == {1}


def test_seed_and_epoch_change_the_order() -> None:
    groups = [i // 3 for i in range(240)]
    digests = {
        order_digest(grouped_order([5] * 240, groups, 8, seed, epoch))
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert len(digests) == 4


def test_the_order_is_the_same_on_every_machine() -> None:
    lengths = [(i * 37) % 101 + 1 for i in range(500)]
    groups = [i * 7 % 130 for i in range(500)]
    assert order_digest(grouped_order(lengths, groups, 16, seed=0, epoch=0))[:12] == "d38ccdf443d5"


def test_like_lengths_come_together() -> None:
    lengths = [(i // 4 * 7919) % 400 + 1 for i in range(1600)]
    groups = [i // 4 for i in range(1600)]

    def padding(batches: list[list[int]]) -> int:
        return sum(
            len(b) * max(lengths[i] for i in b) - sum(lengths[i] for i in b) for b in batches
        )

    plain = [list(range(start, start + 16)) for start in range(0, 1600, 16)]
    assert padding(grouped_order(lengths, groups, 16, 0, 0)) < padding(plain) / 5
