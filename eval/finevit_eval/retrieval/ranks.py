"""Exact ranks of what belongs to a query among all items, without ever holding all similarities.

Q: queries; N: items; D: width of the embeddings; B: at most `BLOCK`; P: pairs of a query and an item that belongs to
it; K: at most `TOP`.
"""

from typing import NamedTuple

import torch

BLOCK = 2048
TIE = 2e-6
"""Cosines that are nearer than this are equal: a picture has no other ones in another batch, in float32."""


TOP = 5
"""Items that are named for each query, for the report."""


class Ranks(NamedTuple):
    """For each query, of its own items the most similar one counts: how many other items are above it, how many others
    are as similar, and how many of its own are (itself included), each `(Q,)`; and the numbers of the most similar
    items of all, the most similar first, `(Q, K)`. All int64, on the CPU.
    """

    above: torch.Tensor
    equal: torch.Tensor
    own: torch.Tensor
    top: torch.Tensor

    @property
    def best(self) -> torch.Tensor:
        """The number of the most similar item, `(Q,)`."""
        return self.top[:, 0]

    def hits(self, k: int) -> torch.Tensor:
        """The chance of each query that an item of its own is among the first `k` when equals stand in random order;
        `(Q,)`, float64. A model to which everything is alike gets k / N where each query has one item.
        """
        places = (k - self.above.double()).clamp(min=0)  # for those that are equal, own ones or not
        missed = torch.ones_like(places)
        for one in range(1, int(self.own.max()) + 1):
            factor = (self.equal - places + one).clamp(min=0) / (self.equal + one)
            missed = missed * torch.where(one <= self.own, factor, 1.0)
        return 1 - missed


class _Pairs(NamedTuple):
    """Which items belong to which query: `order_N[first_Q[q] : last_Q[q]]`."""

    order_N: torch.Tensor
    first_Q: torch.Tensor
    last_Q: torch.Tensor


def rank_groups(
    queries_QD: torch.Tensor, items_ND: torch.Tensor, query_groups_Q: torch.Tensor, item_groups_N: torch.Tensor
) -> Ranks:
    """Ranks the items of its own group among all items for each query.

    Args:
        queries_QD, items_ND: float32, each row of norm 1.
        query_groups_Q, item_groups_N: int64, for instance the number of the picture that a caption belongs to.

    Raises:
        ValueError: a query has no item of its own, or a row holds what is no number, which would be as similar to
            everything.
    """
    if broken := sum(int((~rows.isfinite().all(dim=1)).sum()) for rows in (queries_QD, items_ND)):
        raise ValueError(f"{broken} of {len(queries_QD) + len(items_ND)} embeddings are no numbers")
    device = queries_QD.device
    query_groups_Q, item_groups_N = query_groups_Q.to(device), item_groups_N.to(device)
    pairs = _pairs(query_groups_Q, item_groups_N)
    parts = []
    for start in range(0, len(queries_QD), BLOCK):
        block = slice(start, start + BLOCK)
        own_B, count_B = _own(queries_QD[block], items_ND, pairs, block)
        others = _rank_block(queries_QD[block], items_ND, own_B, query_groups_Q[block], item_groups_N)
        parts.append((*others[:2], count_B, others[2]))
    return Ranks(*(torch.cat(part).cpu() for part in zip(*parts, strict=True)))


def _pairs(query_groups_Q: torch.Tensor, item_groups_N: torch.Tensor) -> _Pairs:
    sorted_N, order_N = item_groups_N.sort(stable=True)
    first_Q, last_Q = (torch.searchsorted(sorted_N, query_groups_Q, right=right) for right in (False, True))
    if alone := int((first_Q == last_Q).sum()):
        raise ValueError(f"{alone} of {len(query_groups_Q)} queries have no item of their own")
    return _Pairs(order_N, first_Q, last_Q)


def _own(
    block_BD: torch.Tensor, items_ND: torch.Tensor, pairs: _Pairs, block: slice
) -> tuple[torch.Tensor, torch.Tensor]:
    """The similarity of the most similar item of its own of each query, and how many are as similar."""
    lengths_B = pairs.last_Q[block] - pairs.first_Q[block]
    rows_P = torch.arange(len(block_BD), device=block_BD.device).repeat_interleave(lengths_B)
    places_P = torch.arange(len(rows_P), device=rows_P.device) - (lengths_B.cumsum(0) - lengths_B)[rows_P]
    items_PD = items_ND[pairs.order_N[pairs.first_Q[block][rows_P] + places_P]]
    cosines_P = (block_BD[rows_P] * items_PD).sum(dim=1)
    most_B = block_BD.new_full((len(block_BD),), -torch.inf).scatter_reduce(0, rows_P, cosines_P, "amax")
    as_similar_P = cosines_P >= most_B[rows_P] - TIE
    return most_B, torch.zeros_like(lengths_B).index_add(0, rows_P, as_similar_P.long())


def _rank_block(
    block_BD: torch.Tensor,
    items_ND: torch.Tensor,
    own_B: torch.Tensor,
    query_groups_B: torch.Tensor,
    item_groups_N: torch.Tensor,
) -> tuple[torch.Tensor, ...]:
    """How many other items are above and how many are equal, and the most similar items of all."""
    above_B, equal_B = torch.zeros_like(query_groups_B), torch.zeros_like(query_groups_B)
    most_BK, top_BK = block_BD.new_empty(len(block_BD), 0), query_groups_B.new_empty(len(block_BD), 0)
    for first in range(0, len(items_ND), BLOCK):
        cosines_BB = block_BD @ items_ND[first : first + BLOCK].T
        other_BB = query_groups_B[:, None] != item_groups_N[first : first + BLOCK]
        apart_BB = cosines_BB - own_B[:, None]
        above_B += ((apart_BB > TIE) & other_BB).sum(dim=1)
        equal_B += ((apart_BB.abs() <= TIE) & other_BB).sum(dim=1)
        found = cosines_BB.topk(min(TOP, cosines_BB.shape[1]))
        most_BK, top_BK = torch.cat([most_BK, found.values], 1), torch.cat([top_BK, first + found.indices], 1)
        most_BK, order_BK = most_BK.topk(min(TOP, most_BK.shape[1]))
        top_BK = top_BK.gather(1, order_BK)
    return above_B, equal_B, top_BK
