# Copyright 2026 The FineViT project. Licensed under the Apache License, Version 2.0.
"""SigLIP's pairwise sigmoid loss (Zhai et al. 2023) over all ranks, without ever building the matrix of all pairs.

Texts travel around the ring of ranks together with their gradients, and meet a rank's images tile by tile. Each tile
gives its share of the loss and of the gradients at once, so that nothing is kept of it: what is saved for backward is
as large as the embeddings. (Autograd keeps every tile's logits, so its memory grows with the square of the batch:
open_clip#942.)

Shape suffixes: B pairs of this rank, K texts that are here just now, C channels.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

# Side of a tile: 16 MB of float32 logits, large enough to keep a GPU busy.
DEFAULT_CHUNK_SIZE = 2048


def sigmoid_loss(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    logit_scale: torch.Tensor,
    logit_bias: torch.Tensor,
    *,
    chunk_size: int = DEFAULT_CHUNK_SIZE,
    caption_ids: torch.Tensor | None = None,
    group: dist.ProcessGroup | None = None,
    pairs_per_rank: Sequence[int] | None = None,
) -> torch.Tensor:
    """Each image against each text of all ranks: -log sigmoid(+-logit), summed over texts, averaged over images.

    A rank's result is that of its own images times ranks / pairs of all of them. The mean over ranks, which DDP takes
    of gradients, is thus the loss of one process that holds all pairs, and so are the gradients, those of the texts
    too, which come back from all ranks. It can be differentiated once, with the same factor on every rank.

    Args:
        image_embeds, text_embeds (`torch.FloatTensor` of shape `(pairs, channels)`): of norm 1; row i of one belongs
            to row i of the other. Computed in float32 (float64 if they are), also under autocast.
        logit_scale, logit_bias (`torch.FloatTensor` of shape `(1,)`): logits are scale * cosine + bias.
        chunk_size: images and texts of a tile.
        caption_ids (`torch.LongTensor` of shape `(pairs,)`, *optional*): equal where captions are. Such a caption fits
            another image as well, so it is no negative of it: the two are left out of the sum.
        group: the ranks that take part, all of which must call this; `None` for this process alone.
        pairs_per_rank: how many pairs each rank of the group has; `None` means as many as this one.

    Returns:
        `torch.FloatTensor` of shape `()`.

    Raises:
        ValueError: not as many texts as images, no pairs on any rank, or other counts than announced.
    """
    pairs = len(image_embeds)
    ring = _Ring(group, pairs if pairs_per_rank is None else pairs_per_rank)
    if image_embeds.shape != text_embeds.shape or not sum(ring.counts) or ring.counts[ring.rank] != pairs:
        raise ValueError(
            f"Expected as many images as texts, {ring.counts[ring.rank]} of one width on this rank, got embeddings "
            f"{tuple(image_embeds.shape)} and {tuple(text_embeds.shape)}."
        )
    return _SigmoidLoss.apply(image_embeds, text_embeds, logit_scale, logit_bias, caption_ids, chunk_size, ring)


def pair_logits(
    image_embeds: torch.Tensor, text_embeds: torch.Tensor, logit_scale: torch.Tensor, logit_bias: torch.Tensor
) -> torch.Tensor:
    """`(images, texts)` logits of embeddings of norm 1, in float32 also under autocast."""
    with torch.autocast(image_embeds.device.type, enabled=False):
        return image_embeds @ text_embeds.T * logit_scale + logit_bias


class _Ring:
    """The ranks of a group in a circle; each sends to the next and receives from the one before.

    Args:
        group: `None` for this process alone.
        counts: pairs of each rank, or of every rank.
    """

    def __init__(self, group: dist.ProcessGroup | None, counts: int | Sequence[int]) -> None:
        self.group = group
        self.rank = 0 if group is None else dist.get_rank(group)
        self.size = 1 if group is None else dist.get_world_size(group)
        self.counts = [counts] * self.size if isinstance(counts, int) else list(counts)
        if len(self.counts) != self.size:
            raise ValueError(f"pairs_per_rank has {len(self.counts)} entries for {self.size} ranks.")

    def owner(self, step: int) -> int:
        """The rank whose texts are here after so many steps."""
        return (self.rank - step) % self.size

    def pass_on(self, tensor: torch.Tensor, step: int) -> Callable[[], torch.Tensor]:
        """Starts to send a tensor of K rows on and to receive what comes for the next step.

        Returns:
            A call that waits for both and gives what came.
        """
        received = tensor.new_empty(self.counts[self.owner(step + 1)], *tensor.shape[1:])
        to, source = (
            dist.get_global_rank(self.group, (self.rank + way) % self.size)  # ty: ignore[invalid-argument-type]
            for way in (1, -1)
        )
        # NCCL takes both in one group; alone, the sends of all ranks would wait for each other.
        works = dist.batch_isend_irecv(
            [
                dist.P2POp(dist.isend, tensor, to, self.group),
                dist.P2POp(dist.irecv, received, source, self.group),
            ]
        )

        def wait() -> torch.Tensor:
            for work in works:
                work.wait()
            return received

        return wait


class _SigmoidLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        image_embeds: torch.Tensor,
        text_embeds: torch.Tensor,
        logit_scale: torch.Tensor,
        logit_bias: torch.Tensor,
        caption_ids: torch.Tensor | None,
        chunk_size: int,
        ring: _Ring,
    ) -> torch.Tensor:
        dtype = torch.promote_types(image_embeds.dtype, torch.float32)
        images, texts, scale, bias = (
            tensor.detach().to(dtype).contiguous() for tensor in (image_embeds, text_embeds, logit_scale, logit_bias)
        )
        with torch.autocast(images.device.type, enabled=False):
            tiles = _Tiles(images, caption_ids, scale, bias, chunk_size, any(ctx.needs_input_grad))
            loss, gradients = _over_the_ring(tiles, texts, ring)
        ctx.save_for_backward(
            *(
                gradient.to(given.dtype)
                for gradient, given in zip(
                    gradients, (image_embeds, text_embeds, logit_scale, logit_bias), strict=False
                )
            )
        )
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gradients = (gradient * grad_outputs[0].to(gradient.dtype) for gradient in ctx.saved_tensors)
        return (*gradients, None, None, None)


def _over_the_ring(tiles: "_Tiles", texts: torch.Tensor, ring: _Ring) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """The loss and, if wanted, its gradients by images, texts, scale and bias."""
    text_sums, caption_ids = torch.zeros_like(texts), tiles.caption_ids
    for step in range(ring.size):
        travelling = []
        if step < ring.size - 1:  # while this rank computes
            travelling = [ring.pass_on(tensor, step) for tensor in (texts, caption_ids) if tensor is not None]
        tiles.add(texts, caption_ids, text_sums, own=step == 0)
        if ring.size > 1 and tiles.with_gradients:  # after the last step the texts' gradients are home again
            text_sums = ring.pass_on(text_sums, step)()
        if travelling:
            texts = travelling[0]()
            caption_ids = None if caption_ids is None else travelling[1]()
    factor = ring.size / sum(ring.counts)
    if not tiles.with_gradients:
        return tiles.loss.squeeze(0) * factor, ()
    by_scale = (tiles.image_sums * tiles.images).sum()[None]
    by_embeds = (sums * tiles.scale for sums in (tiles.image_sums, text_sums))
    return tiles.loss.squeeze(0) * factor, tuple(sums * factor for sums in (*by_embeds, by_scale, tiles.slope_sum))


class _Tiles:
    """This rank's images, and what their tiles add up to: the loss, and its slopes by the logits summed against what
    the logits come from.
    """

    def __init__(
        self,
        images: torch.Tensor,
        caption_ids: torch.Tensor | None,
        scale: torch.Tensor,
        bias: torch.Tensor,
        chunk_size: int,
        with_gradients: bool,
    ) -> None:
        self.images, self.caption_ids = images, caption_ids
        self.scale, self.bias = scale, bias
        self.chunk_size, self.with_gradients = chunk_size, with_gradients
        self.loss, self.slope_sum = images.new_zeros(1), images.new_zeros(1)
        self.image_sums = torch.zeros_like(images)

    def add(self, texts: torch.Tensor, caption_ids: torch.Tensor | None, text_sums: torch.Tensor, own: bool) -> None:
        """All tiles with `(K, C)` texts and their captions' ids, slopes by text into `text_sums`; `own`: the texts are
        those of the images.
        """
        for top in range(0, len(self.images), self.chunk_size):
            for left in range(0, len(texts), self.chunk_size):
                rows, columns = (slice(start, start + self.chunk_size) for start in (top, left))
                same = None
                if self.caption_ids is not None and caption_ids is not None:
                    same = self.caption_ids[rows, None] == caption_ids[columns]
                self._add(rows, texts[columns], same, text_sums[columns], pairs=own and top == left)

    def _add(
        self, rows: slice, texts: torch.Tensor, same: torch.Tensor | None, text_sums: torch.Tensor, pairs: bool
    ) -> None:
        # bias + scale * cosine in one pass over the tile
        logits = torch.addmm(self.bias, self.images[rows], texts.T * self.scale)
        if same is not None:
            if pairs:
                same.fill_diagonal_(False)
            logits.masked_fill_(same, -torch.inf)  # whose loss and slope are 0
        self.loss += F.softplus(logits).sum()
        if pairs:  # -log sigmoid(logit) = softplus(logit) - logit
            self.loss -= logits.diagonal().sum()
        if self.with_gradients:
            slopes = logits.sigmoid_()
            if pairs:
                slopes.diagonal().sub_(1)
            self.slope_sum += slopes.sum()
            self.image_sums[rows].addmm_(slopes, texts)
            text_sums.addmm_(slopes.T, self.images[rows])


__all__ = ["DEFAULT_CHUNK_SIZE", "pair_logits", "sigmoid_loss"]
