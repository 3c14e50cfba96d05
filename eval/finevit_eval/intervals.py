"""How sure a score is: a confidence interval from the scores of single questions."""

import math
from collections.abc import Hashable, Sequence

METHOD = (
    "95 % Wilson score interval; n is the effective number of questions, which counts questions about one picture by "
    "how much they agree, and is never over the number asked. Of a score that is no mean of its samples: the "
    "percentiles of 2,000 scores of as many pictures, drawn with replacement"
)
Z = 1.959963984540054
"""Two-sided 95 % of the normal distribution."""


def score_interval(scores: Sequence[float], groups: Sequence[Hashable]) -> tuple[float, float]:
    """The interval that holds the score of endless such questions in 95 of 100 evaluations.

    Questions about one picture tend to be right or wrong together, so that a thousand of them may tell as little as
    some hundreds. The variance of the mean is taken between pictures (linearised, as for cluster samples), and
    Wilson's interval is given as many independent questions as have that variance. A score between 0 and 1 varies no
    more than one that is 0 or 1, so the interval holds for graded scores such as ANLS too. Where all scores are alike,
    pictures are counted instead of questions.

    Args:
        scores: Of single questions, 0-1.
        groups: What each question is about, in the same order: the id of its picture.

    Raises:
        ValueError: No scores, or scores outside of 0-1.
    """
    if not scores or not all(0 <= score <= 1 for score in scores):
        raise ValueError(f"An interval needs scores of 0 to 1; got {len(scores)} of them.")
    mean = math.fsum(scores) / len(scores)
    n = _effective_number(scores, mean, groups)
    centre = (mean + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(mean * (1 - mean) / n + Z**2 / (4 * n**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def _effective_number(scores: Sequence[float], mean: float, groups: Sequence[Hashable]) -> float:
    """The number of independent right-or-wrong questions whose mean varies as much as this one does."""
    residuals: dict[Hashable, float] = {}
    for score, group in zip(scores, groups, strict=True):
        residuals[group] = residuals.get(group, 0.0) + score - mean
    if len(residuals) < 2 or mean in (0.0, 1.0):
        return len(residuals)
    squares = math.fsum(residual**2 for residual in residuals.values())
    variance = squares / len(scores) ** 2
    return min(len(scores), mean * (1 - mean) / variance) if variance > 0 else len(scores)
