"""An interval holds the truth as often as it says, also where questions share pictures."""

import numpy as np
import pytest

from finevit_eval.intervals import score_interval

RUNS = 2000


def coverage(draw, truth, grouped=True):
    """How many of `RUNS` evaluations have the truth in their interval."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(RUNS):
        scores, groups = draw(rng)
        low, high = score_interval(scores.tolist(), groups.tolist() if grouped else range(len(scores)))
        held += low <= truth <= high
    return held / RUNS


def independent(rng):
    return rng.binomial(1, 0.9, 100).astype(float), np.arange(100)


def shared(rng):
    """Fifty pictures of six questions, which are all right or all wrong in four of five pictures."""
    per_picture = rng.binomial(1, 0.7, (50, 1)).repeat(6, 1)
    alone = rng.binomial(1, 0.7, (50, 6))
    scores = np.where(rng.random((50, 1)) < 0.8, per_picture, alone)
    return scores.ravel().astype(float), np.arange(50).repeat(6)


def graded(rng):
    return rng.beta(2, 2, 80), np.arange(80)


@pytest.mark.parametrize(("draw", "truth"), [(independent, 0.9), (shared, 0.7), (graded, 0.5)])
def test_the_truth_is_inside_as_often_as_stated(draw, truth):
    assert coverage(draw, truth) > 0.93


def test_without_the_pictures_it_would_not_be():
    assert coverage(shared, 0.7, grouped=False) < 0.75


def test_independent_questions_get_wilsons_interval():
    """10 of 100; the bounds are those of the published formula (0.0552, 0.1744)."""
    low, high = score_interval([1.0] * 10 + [0.0] * 90, range(100))
    assert (low, high) == pytest.approx((0.0552, 0.1744), abs=1e-4)


def test_a_perfect_score_is_not_certain_and_counts_pictures():
    low, high = score_interval([1.0] * 10, range(10))
    assert high == pytest.approx(1.0)
    assert low == pytest.approx(0.7225, abs=1e-4)
    assert score_interval([1.0] * 10, [0] * 5 + [1] * 5)[0] < low


@pytest.mark.parametrize("scores", [[], [1.2], [float("nan")]])
def test_what_is_no_score_is_refused(scores):
    with pytest.raises(ValueError, match="0 to 1"):
        score_interval(scores, range(len(scores)))
