"""Resampling of whole pictures: intervals of any score, and whether two models differ on the same samples.

Samples of one picture are right or wrong together, so pictures are drawn and not samples ("cluster bootstrap", Field &
Welsh 2007); the test flips the sign of all differences of a picture together ("sign-flip permutation test").
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

DRAWS = 2000
FLIPS = 10_000
BLOCK = 256
"""Permutations at once."""
ENDS = (2.5, 97.5)
"""Percentiles of a 95 % interval."""


def bootstrap_interval(
    rows: np.ndarray,
    groups: Sequence[Hashable],
    statistic: Callable[[np.ndarray], float],
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[float, float]:
    """95 % percentile interval of a score that is no mean of its samples, such as a mean over classes or a mAP.

    Args:
        rows: What the score follows from, `(N, ...)`: one entry for each sample.
        groups: What each sample is about, in the same order: the id of its picture.
        statistic: The score of some of the rows.
        draws: How many times as many pictures are drawn, with replacement.
        seed: The same one draws the same pictures.

    Raises:
        ValueError: There are no rows, or a drawn score is no number.
    """
    scores = [statistic(rows[chosen]) for chosen in _draws(groups, draws, np.random.default_rng(seed))]
    if not np.isfinite(scores).all():
        raise ValueError("The score of some drawn pictures is no number; give one that is defined for any of them.")
    low, high = np.percentile(scores, ENDS)
    return float(low), float(high)


class Difference(NamedTuple):
    """How much higher the mean of the second of two runs is, its 95 % interval, and the two-sided p of none."""

    mean: float
    low: float
    high: float
    p: float


def paired_difference(
    first: Sequence[float], second: Sequence[float], groups: Sequence[Hashable], seed: int = 0
) -> Difference:
    """Compare the scores of two runs over the same samples.

    Args:
        first, second: Of each sample, in the same order.
        groups: What each sample is about, in the same order: the id of its picture.
        seed: Of both resamplings.

    Raises:
        ValueError: There are no samples.
    """
    apart = np.asarray(second, dtype=float) - np.asarray(first, dtype=float)
    low, high = bootstrap_interval(apart, groups, np.mean, seed=seed)
    sums = np.bincount(_codes(groups), weights=apart)
    return Difference(float(apart.mean()), low, high, _sign_flip_p(sums, np.random.default_rng(seed)))


def holm(values: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm 1979): under all of them together at most 5 % of false alarms."""
    corrected = [0.0] * len(values)
    so_far = 0.0
    for rank, place in enumerate(sorted(range(len(values)), key=lambda at: values[at])):
        so_far = max(so_far, min(1.0, (len(values) - rank) * values[place]))
        corrected[place] = so_far
    return corrected


def _sign_flip_p(sums: np.ndarray, rng: np.random.Generator) -> float:
    """Share of sign patterns of the pictures whose sum is as far from 0 as the one found, which counts itself."""
    found = abs(sums.sum()) - 1e-9
    extreme = 0
    for start in range(0, FLIPS, BLOCK):
        signs = rng.choice((-1.0, 1.0), size=(min(BLOCK, FLIPS - start), len(sums)))
        extreme += int((np.abs(signs @ sums) >= found).sum())
    return (extreme + 1) / (FLIPS + 1)


def _codes(groups: Sequence[Hashable]) -> np.ndarray:
    """Each group as a number."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(group, len(numbers)) for group in groups])


def _draws(groups: Sequence[Hashable], draws: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Numbers of the samples of as many groups as there are, drawn with replacement."""
    if not len(groups):
        raise ValueError("There are no samples to draw from.")
    codes = _codes(groups)
    by_group = np.argsort(codes, kind="stable")
    sizes = np.bincount(codes)
    starts = np.cumsum(sizes) - sizes
    for _ in range(draws):
        chosen = rng.integers(len(sizes), size=len(sizes))
        taken = sizes[chosen]
        within = np.arange(taken.sum()) - np.repeat(np.cumsum(taken) - taken, taken)
        yield by_group[np.repeat(starts[chosen], taken) + within]
