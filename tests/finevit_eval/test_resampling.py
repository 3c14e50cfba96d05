"""Intervals and p-values hold what they state: in simulations of known truth, with pictures that answer together."""

import numpy as np
import pytest

from finevit_eval.resampling import bootstrap_interval, holm, paired_difference

RUNS = 150


def macro(rows):
    """Mean of the accuracy of two classes, whatever their shares: no mean of the samples."""
    return np.mean([rows[rows[:, 0] == label, 1].mean() if (rows[:, 0] == label).any() else 0.5 for label in (0, 1)])


def test_a_mean_over_classes_is_inside_as_often_as_stated():
    rng, held = np.random.default_rng(0), 0
    for run in range(RUNS):
        labels = (np.arange(200) < 30).astype(float)
        rows = np.stack([labels, rng.random(200) < np.where(labels == 1, 0.4, 0.8)], axis=1).astype(float)
        low, high = bootstrap_interval(rows, range(200), macro, draws=200, seed=run)
        held += low <= 0.6 <= high
    assert 0.88 <= held / RUNS <= 0.99


def test_pictures_are_drawn_whole():
    """Forty pictures of five samples that are all alike: the interval is that of forty samples, not of two hundred."""
    scores = np.repeat(np.arange(40) % 2, 5).astype(float)
    whole = bootstrap_interval(scores, np.arange(200) // 5, np.mean)
    apart = bootstrap_interval(scores, range(200), np.mean)
    assert whole[1] - whole[0] == pytest.approx(2 * 1.96 * 0.5 / 40**0.5, rel=0.1)
    assert apart[1] - apart[0] < 0.6 * (whole[1] - whole[0])


def test_the_same_seed_gives_the_same_digits():
    scores = np.random.default_rng(1).random(50)
    assert bootstrap_interval(scores, range(50), np.mean) == bootstrap_interval(scores, range(50), np.mean)
    assert bootstrap_interval(scores, range(50), np.mean, seed=1) != bootstrap_interval(scores, range(50), np.mean)


def test_a_score_that_some_draw_does_not_have_is_refused():
    with pytest.raises(ValueError, match="no number"):
        bootstrap_interval(np.ones(3), range(3), lambda rows: np.nan)
    with pytest.raises(ValueError, match="no samples"):
        bootstrap_interval(np.ones(0), [], np.mean)


def false_alarms(groups_of):
    """How often two equal models differ at p < 0.05, when the samples of a picture are right or wrong together."""
    rng, alarms, pictures = np.random.default_rng(2), 0, np.repeat(np.arange(40), 6)
    for _ in range(RUNS):
        one, two = (rng.integers(2, size=40)[pictures] for _ in range(2))
        alarms += paired_difference(one, two, groups_of(pictures)).p < 0.05
    return alarms / RUNS


def test_equal_models_differ_by_chance_as_rarely_as_stated(monkeypatch):
    monkeypatch.setattr("finevit_eval.resampling.FLIPS", 400)
    monkeypatch.setattr("finevit_eval.resampling.DRAWS", 2)
    assert false_alarms(lambda pictures: pictures.tolist()) <= 0.11
    assert false_alarms(lambda pictures: range(len(pictures))) > 0.25, "samples are no pictures"


def test_p_is_that_of_all_signs_by_hand():
    """Five pictures, all better: 2 of 32 sign patterns are as far from 0."""
    found = paired_difference([0.0] * 5, [1.0] * 5, range(5))
    assert found.mean == 1.0
    assert found.p == pytest.approx(2 / 32, abs=0.01)
    assert paired_difference([1.0, 0.0], [1.0, 0.0], range(2)).p == 1.0


def test_the_difference_is_the_second_from_the_first_with_its_interval():
    rng = np.random.default_rng(3)
    first = (rng.random(400) < 0.5).astype(float)
    second = np.where(rng.random(400) < 0.3, 1.0, first)
    found = paired_difference(first, second, range(400))
    assert found.mean == pytest.approx(second.mean() - first.mean())
    assert 0 < found.low < found.mean < found.high
    assert found.p < 0.001


def test_holm_corrects_as_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
