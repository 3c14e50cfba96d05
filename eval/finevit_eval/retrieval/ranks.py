"""Exact ranks of the right item among all items, without ever holding all similarities.

N: queries, each with its own item of the same number; D: width of the embeddings; B: at most `BLOCK`.
"""

from typing import NamedTuple

import torch

BLOCK = 2048
TIE = 2e-6
"""Cosines that are nearer than this are equal: a picture has no other ones in another batch, in float32."""


class Ranks(NamedTuple):
    """For each query: how many items are more similar to it than its own, how many others are as similar, and the
    number of the most similar one; each `(N,)`, int64, on the CPU.
    """

    above: torch.Tensor
    equal: torch.Tensor
    best: torch.Tensor

    def hits(self, k: int) -> torch.Tensor:
        """The chance of each query that its item is among the first `k` when equals stand in random order; `(N,)`,
        float64. A model to which everything is alike gets k / N.
        """
        return ((k - self.above.double()) / (self.equal.double() + 1)).clamp(0, 1)


def rank_pairs(queries_ND: torch.Tensor, items_ND: torch.Tensor) -> Ranks:
    """Ranks item i among all items for query i.

    Args:
        queries_ND, items_ND: float32, each row of norm 1.

    Raises:
        ValueError: a row holds what is no number, which would be as similar to everything.
    """
    if broken := int((~(queries_ND.isfinite() & items_ND.isfinite()).all(dim=1)).sum()):
        raise ValueError(f"{broken} of {len(queries_ND)} pairs have embeddings that are no numbers")
    parts = [_rank_block(queries_ND, items_ND, start) for start in range(0, len(queries_ND), BLOCK)]
    return Ranks(*(torch.cat(part).cpu() for part in zip(*parts, strict=True)))


def _rank_block(queries_ND: torch.Tensor, items_ND: torch.Tensor, start: int) -> tuple[torch.Tensor, ...]:
    block_BD = queries_ND[start : start + BLOCK]
    own_B = (block_BD * items_ND[start : start + BLOCK]).sum(dim=1)
    above_B, equal_B, best_B = (torch.zeros(len(block_BD), dtype=torch.int64, device=own_B.device) for _ in range(3))
    most_B = torch.full_like(own_B, -torch.inf)
    for first in range(0, len(items_ND), BLOCK):
        cosines_BB = block_BD @ items_ND[first : first + BLOCK].T
        apart_BB = cosines_BB - own_B[:, None]
        above_B += (apart_BB > TIE).sum(dim=1)
        equal_B += (apart_BB.abs() <= TIE).sum(dim=1)
        found = cosines_BB.max(dim=1)
        best_B = torch.where(found.values > most_B, first + found.indices, best_B)
        most_B = torch.maximum(most_B, found.values)
    return above_B, equal_B - 1, best_B
