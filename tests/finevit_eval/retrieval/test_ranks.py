"""Ranks are those of brute force, whatever the block, and equals count in expectation."""

import pytest
import torch
from torch.nn.functional import normalize

from finevit_eval.retrieval import ranks
from finevit_eval.retrieval.ranks import rank_pairs


def unit(rows, width, seed):
    return normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)), dim=-1)


@pytest.mark.parametrize("block", [3, 7, 64])
def test_ranks_are_those_of_the_whole_matrix(block, monkeypatch):
    monkeypatch.setattr(ranks, "BLOCK", block)
    queries, items = unit(40, 8, 0), unit(40, 8, 1)
    cosines = queries.double() @ items.double().T
    found = rank_pairs(queries, items)
    assert found.above.tolist() == (cosines > cosines.diagonal()[:, None]).sum(1).tolist()
    assert found.best.tolist() == cosines.argmax(1).tolist()
    assert found.equal.tolist() == [0] * 40
    by_hand = [float((cosines[row].topk(5).indices == row).any()) for row in range(40)]
    assert found.hits(5).tolist() == by_hand
    assert 0 < sum(by_hand) < 40
    assert rank_pairs(queries, items.flip(0)).hits(5).tolist() != by_hand


def test_a_picture_that_comes_twice_costs_half_a_hit_of_each():
    items = unit(10, 8, 2)
    items[7] = items[3] + 1e-8
    found = rank_pairs(items, items)
    assert found.hits(1).tolist() == [0.5 if row in (3, 7) else 1.0 for row in range(10)]
    assert found.hits(2).tolist() == [1.0] * 10


def test_a_model_to_which_everything_is_alike_gets_what_chance_gives():
    alike = torch.ones(20, 4) / 2
    found = rank_pairs(alike, alike)
    assert float(found.hits(1).mean()) == pytest.approx(1 / 20)
    assert float(found.hits(5).mean()) == pytest.approx(5 / 20)


def test_no_more_than_a_block_of_similarities_is_held(monkeypatch):
    monkeypatch.setattr(ranks, "BLOCK", 16)
    largest = 0
    plain = torch.Tensor.__matmul__

    def watched(self, other):
        nonlocal largest
        product = plain(self, other)
        largest = max(largest, product.numel())
        return product

    monkeypatch.setattr(torch.Tensor, "__matmul__", watched)
    rank_pairs(unit(200, 8, 0), unit(200, 8, 1))
    assert largest == 16 * 16


@pytest.mark.parametrize("side", [0, 1])
def test_embeddings_that_are_no_numbers_are_no_hits(side):
    """A NaN is above nothing and below nothing, so it would be the first of all."""
    pairs = [unit(8, 4, 0), unit(8, 4, 1)]
    pairs[side][3, 0] = float("nan")
    with pytest.raises(ValueError, match="1 of 8 pairs have embeddings that are no numbers"):
        rank_pairs(*pairs)
