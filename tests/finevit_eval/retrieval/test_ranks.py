"""Ranks are those of brute force, whatever the block, and equals count in expectation."""

import random
from itertools import pairwise

import pytest
import torch
from torch.nn.functional import normalize
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from finevit_eval.retrieval import ranks
from finevit_eval.retrieval.ranks import TIE, rank_groups


def unit(rows, width, seed):
    return normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)), dim=-1)


def rank_pairs(queries, items):
    """Item i belongs to query i."""
    return rank_groups(queries, items, torch.arange(len(queries)), torch.arange(len(items)))


def drawn_hits(cosines, belongs, k, rounds):
    """The share of hits of each query over random orders of what is equal, one order after the other."""
    hits = torch.zeros(len(cosines))
    for seed in range(rounds):
        order = list(range(cosines.shape[1]))
        random.Random(seed).shuffle(order)
        for query, row in enumerate(cosines):
            first = sorted(order, key=lambda item: -float(row[item].round(decimals=5)))[:k]
            hits[query] += any(belongs[query][item] for item in first)
    return hits / rounds


@pytest.mark.parametrize("block", [3, 7, 64])
def test_ranks_are_those_of_the_whole_matrix(block, monkeypatch):
    monkeypatch.setattr(ranks, "BLOCK", block)
    queries, items = unit(40, 8, 0), unit(40, 8, 1)
    cosines = queries.double() @ items.double().T
    found = rank_pairs(queries, items)
    assert found.above.tolist() == (cosines > cosines.diagonal()[:, None]).sum(1).tolist()
    assert found.top.tolist() == cosines.topk(5).indices.tolist()
    assert found.best.tolist() == cosines.argmax(1).tolist()
    assert found.equal.tolist() == [0] * 40
    by_hand = [float((cosines[row].topk(5).indices == row).any()) for row in range(40)]
    assert found.hits(5).tolist() == by_hand
    assert 0 < sum(by_hand) < 40
    assert rank_pairs(queries, items.flip(0)).hits(5).tolist() != by_hand


@pytest.mark.parametrize("block", [4, 64])
def test_of_several_items_of_its_own_any_is_a_hit(block, monkeypatch):
    """As CLIP counts five captions of a picture; a share of them would be at most a fifth at k = 1."""
    monkeypatch.setattr(ranks, "BLOCK", block)
    images, texts = unit(12, 6, 0), unit(60, 6, 1)
    owners = torch.arange(12).repeat_interleave(5)[torch.randperm(60, generator=torch.Generator().manual_seed(0))]
    cosines = images @ texts.T
    for k in (1, 5, 10):
        top = cosines.topk(k).indices
        by_hand = [float((owners[top[image]] == image).any()) for image in range(12)]
        assert rank_groups(images, texts, torch.arange(12), owners).hits(k).tolist() == by_hand
    assert 0 < sum(by_hand) < 12
    one_each = rank_groups(texts, images, owners, torch.arange(12)).hits(5).tolist()
    assert one_each == [float(owners[text] in cosines.T[text].topk(5).indices) for text in range(60)]


@pytest.mark.parametrize("k", [1, 2, 3])
def test_equals_count_as_random_orders_do_on_average(k):
    """Pictures that come twice, captions that come twice, and captions of several pictures in between."""
    images, texts = unit(5, 3, 2), unit(12, 3, 3)
    images[3] = images[1]
    texts[4], texts[5], texts[9] = texts[0], texts[0], texts[1]
    owners = torch.tensor([0, 0, 1, 2, 1, 0, 3, 3, 4, 2, 4, 4])
    belongs = owners[None] == torch.arange(5)[:, None]
    found = rank_groups(images, texts, torch.arange(5), owners).hits(k)
    assert found.tolist() == pytest.approx(drawn_hits(images @ texts.T, belongs, k, 400).tolist(), abs=0.09)
    found = rank_groups(texts, images, owners, torch.arange(5)).hits(k)
    assert found.tolist() == pytest.approx(drawn_hits(texts @ images.T, belongs.T, k, 400).tolist(), abs=0.09)
    assert any(0 < hit < 1 for hit in found.tolist()) or k > 1


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
    with_five = rank_groups(alike[:4], alike, torch.arange(4), torch.arange(20) // 5)
    assert float(with_five.hits(1).mean()) == pytest.approx(5 / 20)
    assert float(with_five.hits(2).mean()) == pytest.approx(1 - (15 * 14) / (20 * 19))


class Allocations(TorchDispatchMode):
    """Numbers of elements of the tensors that operations made."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        self.sizes += [leaf.numel() for leaf in tree_leaves(made) if isinstance(leaf, torch.Tensor)]
        return made


def test_memory_grows_with_the_number_of_items_and_not_with_its_square(monkeypatch):
    """No tensor is larger than the embeddings or a block: for 1,000,000 times 1,000,000 of width 1,024 that is 4 GB of
    embeddings beside blocks of 16 MB, where the matrix has 4 TB.
    """
    monkeypatch.setattr(ranks, "BLOCK", 32)
    largest = []
    for number in (200, 400, 800):
        queries, items = unit(number, 8, 0), unit(number, 8, 1)
        with Allocations() as allocations:
            rank_pairs(queries, items)
        largest.append(max(allocations.sizes))
        assert largest[-1] == number * 8
        assert 32 * 32 in allocations.sizes
    assert all(after == 2 * before for before, after in pairwise(largest))


def test_cosines_of_one_picture_in_two_batches_are_equal():
    assert TIE > 1e-6
    once, again = unit(1, 8, 0), unit(1, 8, 0) + 3e-7
    assert rank_pairs(torch.cat([once, again]), torch.cat([again, once])).equal.tolist() == [1, 1]


@pytest.mark.parametrize("side", [0, 1])
def test_embeddings_that_are_no_numbers_are_no_hits(side):
    """A NaN is above nothing and below nothing, so it would be the first of all."""
    pairs = [unit(8, 4, 0), unit(8, 4, 1)]
    pairs[side][3, 0] = float("nan")
    with pytest.raises(ValueError, match="1 of 16 embeddings are no numbers"):
        rank_pairs(*pairs)


def test_a_query_without_an_item_of_its_own_is_refused():
    with pytest.raises(ValueError, match="1 of 3 queries have no item of their own"):
        rank_groups(unit(3, 4, 0), unit(2, 4, 1), torch.arange(3), torch.arange(2))
