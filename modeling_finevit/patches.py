# Copyright 2026 The FineViT project. Licensed under the Apache License, Version 2.0.
"""The merge order: how the patches of an image lie one behind the other, from pixels, from places, and back to places.

Blocks of `merge_size`² neighbouring patches come row by row; so do the patches inside a block. A projector then merges
each block by a plain `view`.
"""

from collections.abc import Sequence

import torch


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


def patch_index(row: torch.Tensor, column: torch.Tensor, columns: torch.Tensor, merge_size: int) -> torch.Tensor:
    """Index within its image of the patch at a row and column, the way back from [`patch_positions`].

    Args:
        row, column (`torch.LongTensor`): places in patches, of shapes that broadcast.
        columns (`torch.LongTensor`): width of the image in patches, likewise.
        merge_size (`int`): side of a block in patches.

    Returns:
        `torch.LongTensor` of the broadcast shape.
    """
    block = row // merge_size * (columns // merge_size) + column // merge_size
    return block * merge_size**2 + row % merge_size * merge_size + column % merge_size


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


def unpack_image(patches: torch.Tensor, rows: int, columns: int, merge_size: int) -> torch.Tensor:
    """One image of packed patches, the way back from [`pack_images`].

    Args:
        patches (`torch.Tensor` of shape `(rows * columns, 3 * p * p)`): in merge order, of any dtype.

    Returns:
        `(3, rows * p, columns * p)`.
    """
    row, column, _ = patch_positions(torch.tensor([[rows, columns]]), merge_size)
    side = round((patches.shape[1] // 3) ** 0.5)
    plane = torch.empty_like(patches).view(rows, columns, 3, side, side)
    plane[row, column] = patches.view(-1, 3, side, side)
    return plane.permute(2, 0, 3, 1, 4).reshape(3, rows * side, columns * side)


def scale_patches(
    patches: torch.Tensor,
    image_mean: Sequence[float] | float | None,
    image_std: Sequence[float] | float | None,
    rescale_factor: float | None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Patches of bytes as floats, step by step as Transformers' torchvision backend does it, so equal to the bit.

    Args:
        patches (`torch.ByteTensor` of shape `(sum_patches, channels * p * p)`): on any device.
        image_mean, image_std: of each channel or of all, of values that are rescaled; `None` to leave them out.
        rescale_factor: what bytes are multiplied by; `None` to leave it out.
        out: is written into if given.

    Returns:
        `torch.FloatTensor` of the same shape.
    """
    out = torch.empty(patches.shape, device=patches.device) if out is None else out
    out.copy_(patches)
    if image_mean is None or image_std is None:
        return out if rescale_factor is None else out.mul_(rescale_factor)
    whole = 1.0 if rescale_factor is None else 1.0 / rescale_factor
    mean, std = (torch.tensor(values).view(-1, 1) * whole for values in (image_mean, image_std))
    channels = max(len(mean), len(std))
    out.view(len(out), channels, out.shape[1] // channels).sub_(mean.to(out.device)).div_(std.to(out.device))
    return out


__all__ = ["frame_sizes", "pack_images", "patch_index", "patch_positions", "scale_patches", "unpack_image"]
