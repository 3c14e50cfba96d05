# Copyright 2026 The FineViT project. Licensed under the Apache License, Version 2.0.
"""Which patches attend to each other: sequences and windows of a ragged batch, without a loop over images.

Everything here is computed once per forward on the host from `image_grid_thw` and moved to the device in one go.

Shape suffixes: B blocks of patches.
"""

import copy

import torch
from torch.nn.attention.flex_attention import BlockMask

from .patches import patch_positions


class AttentionLayout:
    """How a packed batch is cut into sequences for one kind of layer (full or windowed).

    Attributes:
        order (`torch.LongTensor` of shape `(sum_patches,)` or `None`): packed index of the patch at each place of the
            attention's order; `None` where the attention keeps the packed order.
        inverse (`torch.LongTensor` of shape `(sum_patches,)` or `None`): the way back.
        cu_seqlens (`torch.IntTensor` of shape `(num_sequences + 1,)`): sequence boundaries in the attention's order.
        max_seqlen (`int`): length of the longest sequence.
        runs (`list[tuple[int, int]]`): `(count, length)` of neighbouring sequences of equal length, which the
            implementations without variable-length support take as one batch.
        ranks (`list[int]`): place of each image (or window) among the sequences in the attention's order.
        rotation (`torch.FloatTensor` of shape `(sum_patches, 1, head_dim // 2, 2)`): cosine and sine of each rotary
            pair's angle, in the attention's order.
        block_mask (`BlockMask` or `None`): which blocks `flex_attention` computes; `None` for the others.

    It is no dataclass: FSDP's mixed precision rounds every tensor that it finds in a layer's arguments to bfloat16,
    those in dataclasses too, and a rotation so rounded is off by up to 0.004.
    """

    def __init__(
        self,
        order: torch.Tensor | None,
        inverse: torch.Tensor | None,
        cu_seqlens: torch.Tensor,
        max_seqlen: int,
        runs: list[tuple[int, int]],
        ranks: list[int],
    ) -> None:
        self.order, self.inverse = order, inverse
        self.cu_seqlens, self.max_seqlen = cu_seqlens, max_seqlen
        self.runs, self.ranks = runs, ranks
        self.rotation = torch.empty(0)
        self.block_mask: BlockMask | None = None

    def to(self, device: torch.device) -> "AttentionLayout":
        """The same layout with its tensors on `device`."""
        moved = copy.copy(self)
        vars(moved).update((name, value.to(device)) for name, value in vars(self).items() if torch.is_tensor(value))
        return moved


def image_layout(sizes: torch.Tensor, by_length: bool) -> AttentionLayout:
    """One sequence per image (per frame of a clip).

    Args:
        sizes (`torch.LongTensor` of shape `(num_frames, 2)`): rows and columns of patches of each frame.
        by_length (`bool`): bring equally long sequences together.
    """
    lengths = sizes.prod(-1)
    return _layout(torch.repeat_interleave(lengths), lengths, by_length)


def window_layout(sizes: torch.Tensor, merge_size: int, window: int, by_length: bool) -> AttentionLayout:
    """One sequence per window of `window` x `window` patches; windows at the right and bottom edge are smaller.

    Same windows as Qwen2.5-VL's `get_vision_window_index`.

    Args:
        sizes (`torch.LongTensor` of shape `(num_frames, 2)`): rows and columns of patches of each frame.
        merge_size (`int`): side of a merge block in patches.
        window (`int`): side of a window in patches.
        by_length (`bool`): bring equally long sequences together.
    """
    row, column, frames = patch_positions(sizes, merge_size)
    windows_per_frame = (-(-sizes // window)).prod(-1)
    first_window = windows_per_frame.cumsum(0) - windows_per_frame
    windows_per_row = -(-sizes[:, 1] // window)
    windows = first_window[frames] + row // window * windows_per_row[frames] + column // window
    return _layout(windows, torch.bincount(windows), by_length)


def _layout(sequences: torch.Tensor, lengths: torch.Tensor, by_length: bool) -> AttentionLayout:
    """Layout of patches that belong to `sequences` `(sum_patches,)` of these `lengths` `(num_sequences,)` in patches,
    if wanted sorted by length where that makes longer runs."""
    run_lengths, run_counts = torch.unique_consecutive(lengths, return_counts=True)
    ranks = torch.arange(len(lengths))
    if by_length and len(run_lengths) > len(torch.unique(run_lengths)):
        shortest_first = torch.argsort(lengths, stable=True)
        ranks = torch.argsort(shortest_first)
        lengths = lengths[shortest_first]
        run_lengths, run_counts = torch.unique_consecutive(lengths, return_counts=True)
    places = ranks[sequences]
    order = inverse = None
    if bool((places[1:] < places[:-1]).any()):
        order = torch.argsort(places, stable=True)
        inverse = torch.argsort(order)
    cu_seqlens = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
    runs = list(zip(run_counts.tolist(), run_lengths.tolist(), strict=True))
    return AttentionLayout(order, inverse, cu_seqlens, int(lengths.max()) if runs else 0, runs, ranks.tolist())


def flex_block_mask(cu_seqlens: torch.Tensor, num_patches: int, block_size: int = 128) -> BlockMask:
    """The block-diagonal `BlockMask` of `flex_attention`, without ever making a patch-by-patch mask.

    The sequences lie one behind the other, so a block of queries meets a block of keys exactly where the ranges of
    sequences that they hold overlap.

    Args:
        cu_seqlens (`torch.IntTensor` of shape `(num_sequences + 1,)`): sequence boundaries in patches.
        num_patches (`int`): the last of them, known on the host: reading it off a GPU would wait for it.
        block_size (`int`): side of a block in patches.
    """
    sequences = torch.repeat_interleave(cu_seqlens.diff().long(), output_size=num_patches)
    first_B = torch.arange(0, num_patches, block_size, device=cu_seqlens.device)
    low_B, high_B = sequences[first_B], sequences[(first_B + block_size - 1).clamp(max=num_patches - 1)]
    overlap_BB = (low_B[:, None] <= high_B[None]) & (low_B[None] <= high_B[:, None])
    whole_B = first_B + block_size <= num_patches
    same_B = (low_B == high_B) & whole_B
    full_BB = overlap_BB & same_B[:, None] & same_B[None]

    def same_sequence(batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return sequences[query] == sequences[key]

    return BlockMask.from_kv_blocks(
        *listed_blocks(overlap_BB & ~full_BB),
        *listed_blocks(full_BB),
        BLOCK_SIZE=block_size,
        mask_mod=same_sequence,
        seq_lengths=(num_patches, num_patches),
    )


def listed_blocks(blocks_BB: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How many blocks of keys each block of queries meets, `(1, 1, B)`, and which, `(1, 1, B, B)`, for a `BlockMask`.

    Args:
        blocks_BB (`torch.BoolTensor` of shape `(B, B)`): which meet, by block of queries and block of keys.
    """
    counts_B = blocks_BB.sum(-1).to(torch.int32)
    which_BB = torch.argsort(blocks_BB.int(), descending=True, stable=True).to(torch.int32)
    return counts_B[None, None], which_BB[None, None]


__all__ = ["AttentionLayout", "flex_block_mask", "image_layout", "listed_blocks", "window_layout"]
