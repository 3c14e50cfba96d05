"""Maps over a picture's patches: principal components, and likeness to a patch, a box or a text.

Shape suffixes: R rows and C columns of a picture's patches, D width, 3 principal components.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.functional import normalize

from modeling_finevit.regions import region_features

COMPONENTS = 3
PERCENTILES = (0.5, 99.5)
"""Of all patches of all pictures: where the colours begin and end, so that single outliers do not use them up."""
NOISE = 1e-10
"""Variance of a component against the mean square of the features, below which it is rounding."""


def principal_components(maps: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], list[float]]:
    """The first three principal components of all patches of all pictures together: one basis.

    The sign of each is scikit-learn's: its largest loading is positive.

    Args:
        maps (`(R, C, D)` each): features of the pictures' patches.

    Returns:
        `(R, C, 3)` float32 for each picture, and the share of the variance that each component explains. A component
        that is no more than rounding is zero.
    """
    rows = [one.flatten(0, 1).double() for one in maps]
    count = sum(len(one) for one in rows)
    mean_D = torch.stack([one.sum(0) for one in rows]).sum(0) / count
    covariance_DD = torch.stack([(one - mean_D).T @ (one - mean_D) for one in rows]).sum(0) / count
    values_D, axes_DD = torch.linalg.eigh(covariance_DD)
    axes_D3, values_3 = axes_DD.flip(1)[:, :COMPONENTS], values_D.flip(0)[:COMPONENTS]
    largest_3 = axes_D3.gather(0, axes_D3.abs().argmax(0, keepdim=True))
    axes_D3 = axes_D3 * largest_3.sign()
    mean_square = sum(float(one.square().sum()) for one in rows) / count
    axes_D3[:, values_3 <= NOISE * mean_square] = 0
    components = [
        ((one - mean_D) @ axes_D3).float().view(*plane.shape[:2], -1) for one, plane in zip(rows, maps, strict=True)
    ]
    total = max(float(values_D.sum()), 1e-300)
    return components, [float(value) / total for value in values_3.clamp(min=0)]


def cosines(maps: Sequence[torch.Tensor], query_D: torch.Tensor) -> list[torch.Tensor]:
    """Cosine between a vector and every patch: `(R, C)` float32 for each `(R, C, D)`."""
    unit_D = normalize(query_D.float(), dim=-1)
    return [normalize(one.float(), dim=-1) @ unit_D for one in maps]


def patch_under(point: Sequence[float], size: tuple[int, int], grid: Sequence[int]) -> tuple[int, int]:
    """Row and column of the patch under a point.

    Args:
        point: x and y in pixels of the picture.
        size: width and height of the picture in pixels.
        grid: rows and columns of its patches, which cover it from edge to edge.

    Raises:
        ValueError: the point lies outside of the picture.
    """
    (x, y), (width, height) = point, size
    if not (0 <= x < width and 0 <= y < height):
        raise ValueError(f"the point {x:g},{y:g} lies outside of the picture of {width}x{height} pixels.")
    return int(y / height * grid[0]), int(x / width * grid[1])


def box_mean(features_RCD: torch.Tensor, box: Sequence[float], size: tuple[int, int]) -> torch.Tensor:
    """The mean feature in a box, by RoIAlign as everywhere: `(D,)` float32.

    Args:
        features_RCD: of the picture.
        box: x1, y1, x2, y2 in pixels of the picture.
        size: width and height of the picture in pixels.

    Raises:
        ValueError: the box is empty or does not lie in the picture.
    """
    (x1, y1, x2, y2), (width, height) = box, size
    if not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height):
        raise ValueError(
            f"the box {x1:g},{y1:g},{x2:g},{y2:g} must have x1 < x2 and y1 < y2 and lie in the picture of "
            f"{width}x{height} pixels."
        )
    return region_features(
        features_RCD.flatten(0, 1).float(),
        torch.tensor([[1, *features_RCD.shape[:2]]]),
        torch.tensor([[x1, y1, x2, y2]]),
        torch.zeros(1, dtype=torch.long),
        torch.tensor([[height, width]]),
        spatial_merge_size=1,
    )[0]


def colour_range(maps: Sequence[torch.Tensor]) -> np.ndarray:
    """Where colours begin and end, for each channel: `(2,)` of maps `(R, C)`, `(2, 3)` of maps `(R, C, 3)`."""
    values = np.concatenate([one.flatten(0, 1).numpy() for one in maps])
    return np.percentile(values, PERCENTILES, axis=0)
