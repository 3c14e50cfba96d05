"""Packs are planned from lengths alone: which samples share a row of tokens, and in which order rows are trained on.

A plan is a pure function of the lengths of a round's samples. It is made before any picture is decoded.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from finevit_training.data.order import RowKey
from finevit_training.data.packing import pack_full

# In a window of fewer packs, those that are less full than this are taken apart, and their samples are packed with
# those of other windows, so somebody else may have to read them. Among more packs a half empty one is no loss.
FEW_PACKS, FULL_ENOUGH = 32, 0.95


class Sized(NamedTuple):
    """A sample whose lengths are known.

    Attributes:
        key: which row of the data.
        tokens: of its conversation, pictures included.
        patches: of its pictures.
    """

    key: RowKey
    tokens: int
    patches: int


class Pack(NamedTuple):
    """Samples that share one row of tokens; `tokens` and `patches` are their sums."""

    samples: tuple[Sized, ...]

    @property
    def tokens(self) -> int:
        return sum(sample.tokens for sample in self.samples)

    @property
    def patches(self) -> int:
        return sum(sample.patches for sample in self.samples)


def plan_round(windows: Sequence[Sequence[Sized]], capacity: int, block: int, seed: tuple[int, ...]) -> list[Pack]:
    """The packs of a round in the order of training.

    Blocks of `block` packs are taken from one window after the other, so that whoever is responsible for every n-th
    block reads every n-th window only. At the same time all windows give packs of about the same share of pictures:
    ranks that train on them side by side then have about the same work. The packs at the end hold what is left over
    in small windows.

    Args:
        windows: the samples of each window, every one at most `capacity` tokens long.
        capacity: tokens of a row.
        block: packs that are taken from a window at a time.
        seed: of the order of packs.
    """
    queues, left_over = [], []
    for samples in windows:
        packs = pack(samples, capacity)
        least = FULL_ENOUGH * capacity if len(packs) < FEW_PACKS else 0
        full = [one for one in packs if one.tokens >= least]
        left_over += [sample for one in packs if one.tokens < least for sample in one.samples]
        queues.append(iter(in_step(full, seed)))
    planned = list(_by_blocks(queues, block))
    rest = pack(left_over, capacity)
    return planned + [rest[place] for place in np.random.default_rng(seed).permutation(len(rest)).tolist()]


def pack(samples: Sequence[Sized], capacity: int) -> list[Pack]:
    """Share samples out over rows of `capacity` tokens."""
    if all(sample.tokens == capacity for sample in samples):  # as pairs are: there is nothing to look for
        return [Pack((sample,)) for sample in samples]
    rows = pack_full([sample.tokens for sample in samples], capacity)
    return [Pack(tuple(samples[place] for place in row)) for row in rows]


def in_step(packs: Sequence[Pack], seed: tuple[int, ...]) -> list[Pack]:
    """Packs in an order in which the n-th of any window has about as many patches, among its like, as the n-th of
    any other window with this seed.

    The n-th takes the quantile that a van der Corput sequence with a random start gives, so neighbours differ.
    """
    shift = np.random.default_rng((*seed, 3)).random()
    quantiles = np.array([(_van_der_corput(number) + shift) % 1 for number in range(len(packs))])
    by_patches = sorted(packs, key=lambda one: one.patches)
    ranks = np.argsort(np.argsort(quantiles, kind="stable"), kind="stable")
    return [by_patches[rank] for rank in ranks.tolist()]


def _van_der_corput(number: int) -> float:
    value, unit = 0.0, 0.5
    while number:
        value, number, unit = value + unit * (number & 1), number >> 1, unit / 2
    return value


def _by_blocks(queues: list[Iterator[Pack]], block: int) -> Iterator[Pack]:
    while queues:
        unfinished = []
        for queue in queues:
            taken = [one for _, one in zip(range(block), queue, strict=False)]
            yield from taken
            if len(taken) == block:
                unfinished.append(queue)
        queues = unfinished
