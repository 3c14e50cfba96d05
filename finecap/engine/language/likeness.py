"""Which of many texts can be like another at all, before difflib, which is slow, compares them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Letters that share a group count as one, which finds a few texts too many and none too few.
GROUPS = 64


def letter_counts(texts: Sequence[str]) -> np.ndarray:
    """How often each group of letters stands in each text: (texts, GROUPS) int32."""
    counts = np.zeros((len(texts), GROUPS), np.int32)
    for row, text in enumerate(texts):
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        counts[row] = np.bincount(codes % GROUPS, minlength=GROUPS)
    return counts


def alike(text: str, counts: np.ndarray, ratio: float) -> list[int]:
    """Indices of the texts whose `difflib` ratio with this one may be at least `ratio` (its `quick_ratio`, an upper
    bound), those with the highest bound first and of equal ones the first.

    Args:
        counts: `letter_counts` of the texts.
    """
    mine = letter_counts([text])[0]
    bounds = 2 * np.minimum(counts, mine).sum(axis=1) / np.maximum(counts.sum(axis=1) + mine.sum(), 1)
    possible = np.flatnonzero(bounds >= ratio)
    return possible[np.argsort(-bounds[possible], kind="stable")].tolist()
