# Copyright 2026 The FineViT project. Licensed under the Apache License, Version 2.0.
"""Where each packed patch lies: positions, sequences and windows of a ragged batch, without a loop over images.

Everything here is computed once per forward on the host from `image_grid_thw` and moved to the device in one go.
"""

from dataclasses import dataclass

import torch


@dataclass
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
        cos, sin (`torch.FloatTensor` of shape `(sum_patches, 1, head_dim // 2)`): rotary factors in the same order.
        block_mask: the `BlockMask` of `flex_attention`, else `None`.
    """

    order: torch.Tensor | None
    inverse: torch.Tensor | None
    cu_seqlens: torch.Tensor
    max_seqlen: int
    runs: list[tuple[int, int]]
    ranks: list[int]
    cos: torch.Tensor | None = None
    sin: torch.Tensor | None = None
    block_mask: object | None = None


def frame_sizes(grid_thw: torch.Tensor) -> torch.Tensor:
    """`(num_frames, 2)` rows and columns of patches: an image is one frame, a clip of t frames is t of them."""
    return torch.repeat_interleave(grid_thw[:, 1:], grid_thw[:, 0], dim=0)


def patch_positions(sizes: torch.Tensor, merge_size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Row, column and frame of every packed patch in merge order (blocks of `merge_size`², row by row).

    Args:
        sizes (`torch.LongTensor` of shape `(num_frames, 2)`): rows and columns of patches of each frame.
        merge_size (`int`): side of a block in patches.

    Returns:
        Three `torch.LongTensor` of shape `(sum_patches,)`.
    """
    lengths = sizes.prod(-1)
    frames = torch.repeat_interleave(lengths)
    within = torch.arange(len(frames)) - (lengths.cumsum(0) - lengths)[frames]
    block, inside = within // merge_size**2, within % merge_size**2
    blocks_per_row = (sizes[:, 1] // merge_size)[frames]
    row = block // blocks_per_row * merge_size + inside // merge_size
    column = block % blocks_per_row * merge_size + inside % merge_size
    return row, column, frames


def image_layout(sizes: torch.Tensor) -> AttentionLayout:
    """One sequence per frame."""
    lengths = sizes.prod(-1)
    return _layout(torch.repeat_interleave(lengths), lengths)


def window_layout(sizes: torch.Tensor, merge_size: int, window: int) -> AttentionLayout:
    """One sequence per window of `window` x `window` patches; windows at the right and bottom edge are smaller.

    Same windows as Qwen2.5-VL's `get_vision_window_index`.
    """
    row, column, frames = patch_positions(sizes, merge_size)
    windows_per_frame = (-(-sizes // window)).prod(-1)
    first_window = windows_per_frame.cumsum(0) - windows_per_frame
    windows_per_row = -(-sizes[:, 1] // window)
    windows = first_window[frames] + row // window * windows_per_row[frames] + column // window
    return _layout(windows, torch.bincount(windows))


def _layout(sequences: torch.Tensor, lengths: torch.Tensor) -> AttentionLayout:
    """Layout of patches that belong to `sequences`, sorted by length where that makes longer runs."""
    run_lengths, run_counts = torch.unique_consecutive(lengths, return_counts=True)
    ranks = torch.arange(len(lengths))
    if len(run_lengths) > len(torch.unique(run_lengths)):
        by_length = torch.argsort(lengths, stable=True)
        ranks = torch.argsort(by_length)
        lengths = lengths[by_length]
        run_lengths, run_counts = torch.unique_consecutive(lengths, return_counts=True)
    places = ranks[sequences]
    order = inverse = None
    if bool((places[1:] < places[:-1]).any()):
        order = torch.argsort(places, stable=True)
        inverse = torch.argsort(order)
    cu_seqlens = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
    runs = list(zip(run_counts.tolist(), run_lengths.tolist(), strict=True))
    return AttentionLayout(order, inverse, cu_seqlens, int(lengths.max()), runs, ranks.tolist())


def pack_images(pixel_values: torch.Tensor, patch_size: int, merge_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cuts a plain batch into packed patches.

    Args:
        pixel_values (`torch.FloatTensor` of shape `(batch, channels, height, width)`): sides in multiples of
            `patch_size * merge_size` pixels.

    Returns:
        `(batch * height/p * width/p, channels * p * p)` patches in merge order and the `(batch, 3)` grid.

    Raises:
        ValueError: if a side is not such a multiple.
    """
    batch, channels, height, width = pixel_values.shape
    unit = patch_size * merge_size
    if height % unit or width % unit or not height or not width:
        raise ValueError(
            f"A plain batch must have sides in multiples of {unit} pixels, got {height}x{width}. Resize it, or let "
            "FineViTImageProcessor make `pixel_values` and `image_grid_thw`."
        )
    blocks = pixel_values.reshape(
        batch, channels, height // unit, merge_size, patch_size, width // unit, merge_size, patch_size
    )
    patches = blocks.permute(0, 2, 5, 3, 6, 1, 4, 7).reshape(-1, channels * patch_size**2)
    grid = torch.tensor([[1, height // patch_size, width // patch_size]]).repeat(batch, 1)
    return patches, grid
