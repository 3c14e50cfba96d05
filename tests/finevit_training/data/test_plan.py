"""Packs: every sample once, rows full, a pure function of lengths, and the same work for ranks side by side."""

import random

from hypothesis import given
from hypothesis import strategies as st

from finevit_training.data.order import RowKey
from finevit_training.data.plan import Sized, pack, plan_round

CAPACITY = 256
WINDOWS = st.lists(st.lists(st.tuples(st.integers(1, CAPACITY), st.integers(0, 900)), max_size=40), max_size=6)


def sized(windows):
    return [
        [Sized(RowKey(0, part, row, 0), tokens, patches) for row, (tokens, patches) in enumerate(window)]
        for part, window in enumerate(windows)
    ]


def like_finecap(seed, windows=8, rows=256):
    """Lengths of a mixture of photographs with a few turns and of pages with many, in a row of 8,192 tokens."""
    rng = random.Random(seed)

    def sample():
        patches = 4 * rng.choice([64, 100, 144, 256, 400, 700, 1296])
        return patches // 4 + rng.randrange(30, 500), patches

    return sized([[sample() for _ in range(rows)] for _ in range(windows)])


@given(WINDOWS, st.integers(1, 3))
def test_every_sample_is_in_one_pack_and_no_pack_is_too_long(windows, block):
    given_windows = sized(windows)
    packs = plan_round(given_windows, CAPACITY, block, (0,))
    packed = [sample for one in packs for sample in one.samples]
    assert sorted(packed) == sorted(sample for window in given_windows for sample in window)
    assert all(0 < one.tokens <= CAPACITY for one in packs)


@given(WINDOWS)
def test_the_plan_follows_from_lengths_and_seed(windows):
    assert plan_round(sized(windows), CAPACITY, 2, (1, 2)) == plan_round(sized(windows), CAPACITY, 2, (1, 2))


def test_another_seed_gives_another_order():
    assert plan_round(like_finecap(0), 8192, 1, (1,)) != plan_round(like_finecap(0), 8192, 1, (2,))


def test_blocks_come_from_one_window_after_the_other():
    packs = plan_round(like_finecap(0), 8192, 2, (0,))
    windows = [{sample.key.part for sample in one.samples} for one in packs]
    assert windows[:16] == [{number} for number in range(8) for _ in range(2)]


def test_rows_of_a_mixture_are_full():
    packs = plan_round(like_finecap(1), 8192, 1, (0,))
    assert sum(one.tokens for one in packs) >= 0.98 * 8192 * len(packs)


def spread(packs, ranks=8):
    """Mean over steps of how much the patches of the busiest rank are above the mean of all."""
    steps = [packs[start : start + ranks] for start in range(0, len(packs) - ranks + 1, ranks)]
    shares = [max(p.patches for p in step) * ranks / sum(p.patches for p in step) - 1 for step in steps]
    return sum(shares) / len(shares)


def test_ranks_side_by_side_have_as_many_patches():
    packs = plan_round(like_finecap(2), 8192, 1, (0,))
    assert spread(packs) < 0.1
    shuffled = random.Random(0).sample(packs, len(packs))
    assert spread(shuffled) > spread(packs), "a random order is worse"


def test_samples_as_long_as_a_row_have_one_each_in_their_order():
    (window,) = sized([[(1, 7), (1, 3), (1, 5)]])
    assert [one.samples for one in pack(window, 1)] == [(sample,) for sample in window]
