# Copyright 2026 The FineViT project. Licensed under the Apache License, Version 2.0.
"""One vector for each box in an image: RoIAlign (He et al. 2017, Mask R-CNN) over packed feature maps.

Shape suffixes: K boxes, S sampling points along a side, C channels.
"""

import torch
from torch.nn import functional as F

from .patches import patch_index

# Points along a side of a box: Mask R-CNN's 7 bins of 2 points; the mean over the bins is the mean over the points.
DEFAULT_SAMPLING_POINTS = 14


def region_features(
    hidden_states: torch.Tensor,
    image_grid_thw: torch.Tensor,
    boxes: torch.Tensor,
    image_index: torch.Tensor,
    image_sizes: torch.Tensor,
    spatial_merge_size: int = 2,
    sampling_points: int = DEFAULT_SAMPLING_POINTS,
) -> torch.Tensor:
    """Mean of the bilinearly interpolated features in each box.

    Equal to `torchvision.ops.roi_align(map, boxes, output_size=1, sampling_ratio=sampling_points, aligned=True)` on
    each image's unpacked map; all boxes of all images in one `embedding_bag`, no map is unpacked.

    Args:
        hidden_states (`torch.FloatTensor` of shape `(sum_patches, hidden_size)`): `last_hidden_state`, in merge order.
        image_grid_thw (`torch.LongTensor` of shape `(num_images, 3)`): grids with one frame per image.
        boxes (`torch.FloatTensor` of shape `(num_boxes, 4)`): absolute pixels x1, y1, x2, y2.
        image_index (`torch.LongTensor` of shape `(num_boxes,)`): which image each box lies in.
        image_sizes (`torch.LongTensor` of shape `(num_images, 2)`): height and width in pixels of the pictures that
            the boxes refer to (the originals: how they were resized does not matter).
        spatial_merge_size (`int`): as in the model's config.
        sampling_points (`int`): points along each side of a box.

    Returns:
        `torch.FloatTensor` of shape `(num_boxes, hidden_size)`; differentiable.

    Raises:
        ValueError: shapes that do not fit, an image index out of range, an empty box, more than one frame per image.
    """
    device = hidden_states.device
    boxes, image_index, sizes = boxes.to(device).float(), image_index.to(device), image_sizes.to(device)
    grid = image_grid_thw.to(device)
    _check(hidden_states, grid, boxes, image_index, sizes)
    heights, widths = grid[image_index, 1], grid[image_index, 2]
    x1, y1, x2, y2 = boxes.unbind(-1)
    per_pixel_y, per_pixel_x = heights / sizes[image_index, 0], widths / sizes[image_index, 1]
    rows, row_weights = _taps(y1 * per_pixel_y, y2 * per_pixel_y, heights, sampling_points)
    columns, column_weights = _taps(x1 * per_pixel_x, x2 * per_pixel_x, widths, sampling_points)
    starts = F.pad(grid.prod(-1).cumsum(0), (1, 0))[image_index]
    places = patch_index(rows[:, :, None], columns[:, None], widths[:, None, None], spatial_merge_size)
    patches = starts[:, None, None] + places
    weights = row_weights[:, :, None] * column_weights[:, None]
    return F.embedding_bag(
        patches.flatten(1), hidden_states, mode="sum", per_sample_weights=weights.flatten(1).to(hidden_states.dtype)
    )


def _taps(
    start: torch.Tensor, end: torch.Tensor, size: torch.Tensor, points: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The two neighbours of each sampling point along one axis, and their share of the mean.

    Args:
        start, end (`torch.FloatTensor` of shape `(K,)`): a box's two borders along this axis, in patches.
        size (`torch.LongTensor` of shape `(K,)`): patches of its image along this axis.
        points (`int`): S.

    Returns:
        Indices of rows (or columns) and weights, both `(K, 2S)`.

    torchvision's borders: a point beyond one patch outside counts as zero, one closer takes the border's value.
    """
    fractions = (torch.arange(points, device=start.device) + 0.5) / points
    positions_KS = (start - 0.5)[:, None] + (end - start)[:, None] * fractions
    last = (size - 1)[:, None]
    inside = (positions_KS >= -1) & (positions_KS <= size[:, None])
    positions_KS = positions_KS.clamp(min=0).minimum(last)
    low = positions_KS.floor().long()
    high = torch.minimum(low + 1, last)
    share = positions_KS - low
    weights = torch.cat([(1 - share) * inside, share * inside], dim=1) / points
    return torch.cat([low, high], dim=1), weights


def _check(
    hidden_states: torch.Tensor,
    grid: torch.Tensor,
    boxes: torch.Tensor,
    image_index: torch.Tensor,
    sizes: torch.Tensor,
) -> None:
    if boxes.ndim != 2 or boxes.shape[1] != 4 or image_index.shape != boxes.shape[:1]:
        raise ValueError(
            f"Expected boxes (num_boxes, 4) and image_index (num_boxes,), got {tuple(boxes.shape)} and "
            f"{tuple(image_index.shape)}."
        )
    if sizes.shape != (len(grid), 2):
        raise ValueError(
            f"image_sizes must be ({len(grid)}, 2): height, width of each image; got {tuple(sizes.shape)}."
        )
    if (grid[:, 0] != 1).any() or int(grid.prod(-1).sum()) != len(hidden_states):
        raise ValueError(f"image_grid_thw must have one frame per image and {len(hidden_states)} patches in all.")
    if len(boxes) and (int(image_index.min()) < 0 or int(image_index.max()) >= len(grid)):
        raise ValueError(f"image_index must lie in [0, {len(grid)}).")
    empty = (boxes[:, 2:] <= boxes[:, :2]).any(-1).nonzero().flatten().tolist()
    if empty:
        raise ValueError(f"Boxes {empty[:10]} are empty; expected x1 < x2 and y1 < y2 in pixels.")


__all__ = ["DEFAULT_SAMPLING_POINTS", "region_features"]
