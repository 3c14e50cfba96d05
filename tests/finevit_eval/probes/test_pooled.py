"""Nearest neighbours are DINO's by hand; the linear probe is scikit-learn's with a penalty chosen on held-out data."""

import pytest
import torch
from torch.nn.functional import normalize

from finevit_eval.probes.pooled import NEIGHBOURS, TEMPERATURE, choose_penalty, knn_scores, linear_scores

CLASSES = 4


def clouds(per_class, seed, spread=0.6):
    """Vectors of norm 1 around a direction for each class, and their classes."""
    centres = torch.randn(CLASSES, 16, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(CLASSES).repeat(per_class)
    noise = torch.randn(len(labels), 16, generator=torch.Generator().manual_seed(seed))
    return normalize(centres[labels] + spread * noise, dim=-1), labels


TRAIN, LABELS = clouds(15, seed=1)
TEST, TRUTH = clouds(25, seed=2)


def share(scores, labels):
    return float((scores.argmax(dim=1) == labels).double().mean())


def test_votes_of_neighbours_are_weighed_as_dinos():
    cosines = TEST @ TRAIN.T
    near = cosines.topk(NEIGHBOURS)
    by_hand = torch.zeros(len(TEST), CLASSES).scatter_add(1, LABELS[near.indices], (near.values / TEMPERATURE).exp())
    scores = knn_scores(TRAIN, LABELS, TEST, CLASSES)
    assert torch.allclose(scores.float(), by_hand / by_hand.sum(dim=1, keepdim=True), atol=1e-4)
    assert share(scores, TRUTH) > 0.9


def test_of_fewer_pictures_than_neighbours_all_vote_and_a_class_without_any_gets_none():
    scores = knn_scores(TRAIN[:7], LABELS[:7].clamp(max=2), TEST, CLASSES)
    assert scores.shape == (len(TEST), CLASSES)
    assert not scores[:, 3].any()


def test_a_linear_probe_tells_what_a_line_can_and_nothing_from_shuffled_labels():
    penalty = choose_penalty(TRAIN, LABELS, seed=0)
    assert penalty == choose_penalty(TRAIN, LABELS, seed=0)
    assert share(linear_scores(TRAIN, LABELS, TEST, CLASSES, penalty), TRUTH) > 0.9
    order = torch.randperm(len(LABELS), generator=torch.Generator().manual_seed(0))
    assert share(linear_scores(TRAIN, LABELS[order], TEST, CLASSES, penalty), TRUTH) < 0.5


def test_the_penalty_is_strong_where_there_is_little_to_learn():
    """A feature that tells the class, and noise; by a weak penalty the noise is learnt by heart."""
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(2).repeat(30)
    features = torch.cat([(labels[:, None] - 0.5), 3 * torch.randn(60, 200, generator=generator)], dim=1)
    clear = torch.cat([(labels[:, None] - 0.5), torch.zeros(60, 200)], dim=1)
    assert choose_penalty(features, labels, seed=0) <= 1e-2
    assert share(linear_scores(clear, labels, clear, 2, choose_penalty(clear, labels, seed=0)), labels) == 1


def test_two_classes_have_two_scores():
    pair = LABELS < 2
    scores = linear_scores(TRAIN[pair], LABELS[pair], TEST[TRUTH < 2], CLASSES, penalty=1.0)
    assert scores.shape[1] == CLASSES
    assert set(scores.argmax(dim=1).tolist()) == {0, 1}
    assert share(scores, TRUTH[TRUTH < 2]) > 0.9


def test_too_few_pictures_to_hold_some_out_are_refused():
    with pytest.raises(ValueError, match="needs 5 pictures of a class"):
        choose_penalty(TRAIN[:8], LABELS[:8], seed=0)
