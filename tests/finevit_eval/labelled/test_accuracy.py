"""Accuracy is an expectation where scores are alike, and a mean over pictures or over classes."""

import pytest
import torch

from finevit_eval.labelled.accuracy import accuracy, class_ranks, mean_per_class
from finevit_eval.labelled.pictures_by_class import LabelledPicture


def test_the_right_class_among_equals_counts_by_chance():
    scores = torch.tensor([[0.9, 0.1, 0.2], [0.5, 0.5, 0.1], [0.3, 0.3, 0.3], [0.1, 0.2, 0.3]])
    ranks = class_ranks(scores, torch.tensor([0, 1, 2, 0]), tie=1e-6)
    assert ranks.hits(1).tolist() == pytest.approx([1, 1 / 2, 1 / 3, 0])
    assert ranks.hits(2).tolist() == pytest.approx([1, 1, 2 / 3, 0])
    assert ranks.hits(3).tolist() == [1, 1, 1, 1]
    assert ranks.best.tolist()[0] == 0


def test_a_model_to_which_everything_is_alike_gets_chance():
    ranks = class_ranks(torch.zeros(7, 10), torch.arange(7), tie=1e-6)
    assert float(ranks.hits(1).mean()) == pytest.approx(0.1)
    assert float(ranks.hits(5).mean()) == pytest.approx(0.5)


def test_every_class_weighs_the_same_in_the_mean_over_classes():
    hits, labels = torch.tensor([1.0, 1.0, 1.0, 0.0]).double(), torch.tensor([0, 0, 0, 2])
    assert mean_per_class(hits, labels) == 0.5
    pictures = [LabelledPicture(str(row), label, bytes) for row, label in enumerate(labels.tolist())]
    ranks = class_ranks(torch.eye(3)[[0, 0, 0, 1]], labels, tie=1e-6)
    outcome = accuracy(ranks, pictures, ["ant", "bee", "cat"], {}, {}, {})
    assert (outcome.score, outcome.others["mean_per_class"]) == (0.75, 0.5)
    assert (outcome.samples[3]["truth"], outcome.samples[3]["prediction"]) == ("cat", "bee")


def test_scores_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match="of 1 of 2 pictures are no numbers"):
        class_ranks(torch.tensor([[0.0, 1.0], [torch.nan, 0.0]]), torch.tensor([0, 1]), tie=0.0)
