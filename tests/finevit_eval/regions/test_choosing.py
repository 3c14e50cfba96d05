"""A text is chosen by similarity; equals share."""

import torch

from finevit_eval.regions.choosing import right_share


def test_the_most_similar_is_right_and_equals_share():
    cosines = torch.tensor([[0.9, 0.1, 0.2], [0.1, 0.9, 0.2], [0.5, 0.5, 0.1], [0.3, 0.3, 0.3]])
    right = torch.tensor([0, 0, 1, 2])
    assert right_share(cosines, right).tolist() == [1.0, 0.0, 0.5, 1 / 3]


def test_rows_may_have_fewer_texts():
    cosines = torch.tensor([[-0.5, -0.5, -torch.inf], [-0.5, -0.4, -torch.inf]])
    assert right_share(cosines, torch.tensor([0, 0])).tolist() == [0.5, 0.0]
