"""The order of an epoch: every sample once, the same for the same seed, little padding."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from narrowtune.data import epoch_order, order_digest

lengths = st.lists(st.integers(1, 500), max_size=400)


@settings(max_examples=60, deadline=None)
@given(lengths, st.integers(1, 40), st.integers(0, 3), st.integers(0, 3))
def test_every_sample_once_in_full_batches(
    lengths: list[int], batch_size: int, seed: int, epoch: int
) -> None:
    batches = epoch_order(lengths, batch_size, seed, epoch)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert all(len(batch) == batch_size for batch in batches[:-1])
    assert all(batches)
    assert batches == epoch_order(lengths, batch_size, seed, epoch)


def test_seed_and_epoch_change_the_order() -> None:
    lengths = [1 + i % 7 for i in range(200)]
    digests = {
        order_digest(epoch_order(lengths, 8, seed, epoch)) for seed in (0, 1) for epoch in (0, 1)
    }
    assert len(digests) == 4


def test_the_order_is_the_same_on_every_machine() -> None:
    """A known digest: resuming elsewhere must meet the same data."""
    lengths = [(i * 37) % 101 + 1 for i in range(500)]
    assert order_digest(epoch_order(lengths, 16, seed=0, epoch=0))[:12] == "4bb46715d02c"


def test_like_lengths_together_save_padding() -> None:
    lengths = [(i * 7919) % 400 + 1 for i in range(1600)]

    def padding(batches: list[list[int]]) -> int:
        return sum(
            len(b) * max(lengths[i] for i in b) - sum(lengths[i] for i in b) for b in batches
        )

    plain = [list(range(start, start + 16)) for start in range(0, 1600, 16)]
    assert padding(epoch_order(lengths, 16, 0, 0)) < padding(plain) / 5


def test_batches_do_not_come_sorted() -> None:
    lengths = [(i * 7919) % 400 + 1 for i in range(800)]
    means = [sum(lengths[i] for i in b) / len(b) for b in epoch_order(lengths, 16, 0, 0)]
    assert means != sorted(means)
    rises = sum(a < b for a, b in pairwise(means))
    assert 10 < rises < 40
