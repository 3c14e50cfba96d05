"""Which records come when: every record once an epoch, whatever the batch shape, and from keys alone."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finevit_training.data.order import MEGABATCH, TrainingBatches
from finevit_training.loop.clock import Progress


def batches(batch_size=2, global_batch_size=4, num_batches=10, num_records=20, lengths=None, seed=0):
    return TrainingBatches(
        num_records, batch_size, global_batch_size, num_batches, seed, lambda step: step / 100, lengths
    )


def indices(batch_list):
    return [key.index for batch in batch_list for key in batch]


@settings(max_examples=50, deadline=None)
@given(num_records=st.integers(1, 60), seed=st.integers(0, 99), grouped=st.booleans())
def test_every_record_comes_once_an_epoch(num_records, seed, grouped):
    lengths = [(i * 37) % 11 for i in range(num_records)] if grouped else None
    # A grouped epoch hands its last records, fewer than a global batch, on to the first window of the next.
    num_batches = 2 * num_records + (4 * MEGABATCH + num_records if grouped else 0)
    keys = [key for batch in batches(1, 4, num_batches, num_records, lengths, seed) for key in batch]
    for epoch in (0, 1):
        assert sorted(key.index for key in keys if key.epoch == epoch) == list(range(num_records))


@pytest.mark.parametrize("lengths", [None, list(range(20))])
def test_the_global_batches_do_not_depend_on_the_micro_batch(lengths):
    ones = indices(batches(1, 4, 40, lengths=lengths))
    twos = indices(batches(2, 4, 20, lengths=lengths))
    assert ones == twos
    assert ones != indices(batches(2, 4, 20, lengths=lengths, seed=1))


def test_grouping_by_length_puts_like_lengths_together():
    lengths = [i % 50 for i in range(400)]

    def spread(sampler):
        return sum(max(lengths[k.index] for k in b) - min(lengths[k.index] for k in b) for b in sampler)

    assert spread(batches(4, 4, 100, 400, lengths)) < 0.4 * spread(batches(4, 4, 100, 400, None))


@pytest.mark.parametrize("num_records", [4096, 4100, 4127])
def test_grouping_keeps_the_padding_low_in_every_epoch(num_records):
    """Padding share of micro-batches of 32 at global batches of 32, epoch by epoch."""
    lengths = np.random.default_rng(0).lognormal(5, 0.6, num_records).astype(int) + 1

    def padding_by_epoch(grouped):
        sampler = batches(32, 32, 4 * num_records // 32, num_records, lengths if grouped else None)
        shares: list[list[float]] = [[], [], [], []]
        for batch in sampler:
            tokens = [lengths[key.index] for key in batch]
            shares[batch[-1].epoch].append(1 - sum(tokens) / (len(tokens) * max(tokens)))
        return [sum(epoch) / len(epoch) for epoch in shares]

    assert max(padding_by_epoch(True)) < 0.13
    assert min(padding_by_epoch(False)) > 0.4


def test_keys_carry_the_progress_of_their_step():
    fractions = [batch[0].fraction for batch in batches(2, 4, 6)]
    assert fractions == [0.0, 0.0, 0.01, 0.01, 0.02, 0.02]


def test_progress_is_the_larger_share_and_moves_only_with_ticks():
    progress = Progress(max_steps=10, max_seconds=0.2)
    progress.start()
    assert progress.fraction(5) == 0.5
    time.sleep(0.15)
    assert progress.fraction(1) == 0.1
    progress.tick()
    assert progress.fraction(1) > 0.7
    assert progress.fraction(20) == 1.0


@pytest.mark.parametrize(
    ("kwargs", "word"), [({"num_records": 0}, "no records"), ({"global_batch_size": 5}, "multiple")]
)
def test_impossible_batches_are_refused(kwargs, word):
    with pytest.raises(ValueError, match=word):
        batches(**kwargs)
