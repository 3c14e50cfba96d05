# Copyright 2026 The FineViT project. Licensed under the Apache License, Version 2.0.
"""Which patches of an image are masked in Stage I: exactly so many, drawn from a generator that is passed in."""

import math

import numpy as np
import torch

from ..patches import patch_index

MASKS = ("random", "block")
# BEiT's (arXiv 2106.08254, `masking_generator.py`): sides of a block between 0.3 : 1 and 1 : 0.3. Its least block, 16
# patches of 196, is a twelfth of the image here, which may be of any size.
LOG_ASPECTS = (math.log(0.3), -math.log(0.3))
LEAST_BLOCK = 1 / 12


def draw_mask(
    rows: int, columns: int, ratio: float, rng: np.random.Generator, kind: str = "random", merge_size: int = 2
) -> np.ndarray:
    """The mask of one image.

    Args:
        rows, columns: of patches.
        ratio: share of the patches that are masked; at least one is, and at least one is not.
        rng: draws the same mask from the same state anywhere.
        kind: `random` [P], each patch by itself, or `block`, rectangles as in BEiT.
        merge_size: side of the blocks of the merge order.

    Returns:
        `(rows * columns,)` bool in merge order.

    Raises:
        ValueError: `kind` is neither.
    """
    if kind not in MASKS:
        raise ValueError(f"mask is {kind!r}; expected one of {', '.join(MASKS)}.")
    patches = rows * columns
    count = min(max(1, round(ratio * patches)), patches - 1)
    if kind == "block":
        places = torch.from_numpy(np.flatnonzero(_blocks(rows, columns, count, rng)))
        order = patch_index(places // columns, places % columns, torch.tensor(columns), merge_size).numpy()
    else:
        order = rng.permutation(patches)[:count]
    mask = np.zeros(patches, dtype=bool)
    mask[order] = True
    return mask


def _blocks(rows: int, columns: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """`(rows, columns)` bool. Each block lies over a patch that is still visible; the last one is thinned out."""
    mask = np.zeros((rows, columns), dtype=bool)
    while (missing := count - int(mask.sum())) > 0:
        area = rng.uniform(min(missing, max(1, LEAST_BLOCK * rows * columns)), missing)
        aspect = math.exp(rng.uniform(*LOG_ASPECTS))
        height = min(rows, max(1, round(math.sqrt(area * aspect))))
        width = min(columns, max(1, round(math.sqrt(area / aspect))))
        row, column = divmod(int(rng.choice(np.flatnonzero(~mask))), columns)
        top = min(max(0, row - int(rng.integers(height))), rows - height)
        left = min(max(0, column - int(rng.integers(width))), columns - width)
        block = np.zeros_like(mask)
        block[top : top + height, left : left + width] = True
        fresh = np.flatnonzero(block & ~mask)
        mask.flat[rng.permutation(fresh)[:missing]] = True
    return mask


__all__ = ["MASKS", "draw_mask"]
