"""Masks of stage I: how many patches, which ones, and from what they follow."""

import numpy as np
import pytest
import torch

from modeling_finevit.patches import patch_positions
from modeling_finevit.pretraining.masks import MASKS, draw_mask


def drawn(rows, columns, ratio, kind, seed=0):
    return draw_mask(rows, columns, ratio, np.random.default_rng(seed), kind)


def plane(mask, rows, columns):
    """A mask of merge order as rows and columns."""
    row, column, _ = patch_positions(torch.tensor([[rows, columns]]), 2)
    found = np.zeros((rows, columns), dtype=bool)
    found[row, column] = mask
    return found


def neighbours_alike(seen):
    """Share of neighbours that are both masked or both visible."""
    return np.mean(np.concatenate([(seen[:, 1:] == seen[:, :-1]).ravel(), (seen[1:] == seen[:-1]).ravel()]))


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize(("rows", "columns", "ratio"), [(18, 18, 0.75), (4, 30, 0.4), (2, 2, 0.01), (2, 2, 0.99)])
def test_exactly_so_many_patches_are_masked_and_never_all_or_none(rows, columns, ratio, kind):
    expected = min(max(1, round(ratio * rows * columns)), rows * columns - 1)
    assert {int(drawn(rows, columns, ratio, kind, seed).sum()) for seed in range(20)} == {expected}


@pytest.mark.parametrize("kind", MASKS)
def test_a_mask_follows_from_the_generator_alone(kind):
    torch.manual_seed(0)
    np.random.seed(0)
    first = drawn(10, 14, 0.6, kind, seed=3)
    np.random.seed(1)
    assert np.array_equal(drawn(10, 14, 0.6, kind, seed=3), first)
    assert not np.array_equal(drawn(10, 14, 0.6, kind, seed=4), first)


@pytest.mark.parametrize("kind", MASKS)
def test_every_patch_is_masked_as_often_as_the_ratio_says(kind):
    shares = np.mean([drawn(6, 10, 0.5, kind, seed) for seed in range(400)], axis=0)
    assert abs(shares.mean() - 0.5) < 1e-9
    assert shares.min() > (0.4 if kind == "random" else 0.2)


def test_blocks_are_blocks_on_the_plane_and_not_in_merge_order():
    masks = [drawn(12, 20, 0.5, "block", seed) for seed in range(20)]
    alike = np.mean([neighbours_alike(plane(mask, 12, 20)) for mask in masks])
    assert alike > 0.88
    assert np.mean([neighbours_alike(mask.reshape(12, 20)) for mask in masks]) < alike - 0.05
    assert np.mean([neighbours_alike(plane(drawn(12, 20, 0.5, "random", s), 12, 20)) for s in range(20)]) < 0.6


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="mask is 'cross'; expected one of random, block"):
        drawn(4, 4, 0.5, "cross")
