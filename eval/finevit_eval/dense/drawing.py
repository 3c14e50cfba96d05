"""A map over its picture: smooth, from edge to edge, in colours whose steps look even."""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.colors import to_hex
from PIL import Image, ImageDraw
from torch.nn.functional import interpolate

COLOURS = "magma"
"""Perceptually uniform: equal steps of a value are equal steps to the eye; dark where there is little."""
LONG_SIDE = (768, 1536)
"""Pixels between which the longer side of a drawing lies: small pictures are enlarged, large ones reduced."""
OPACITY = 0.7


def canvas_size(size: tuple[int, int]) -> tuple[int, int]:
    """Width and height of a drawing of a picture, in its own aspect."""
    longest = max(size)
    scale = min(max(longest, LONG_SIDE[0]), LONG_SIDE[1]) / longest
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def coloured(values: torch.Tensor, colours: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """A map in colours.

    The patches cover the picture from edge to edge, so the map does too: values are bicubic between the middles of
    patches, and those of the outermost patches go on to the border.

    Args:
        values: `(R, C)`, or `(R, C, 3)` for red, green and blue.
        colours: where the colours begin and end, see `maps.colour_range`; a channel without a range is half-way.
        size: width and height in pixels.
    """
    low, high = colours
    planes = values.float().reshape(*values.shape[:2], -1).permute(2, 0, 1)[None]
    smooth = interpolate(planes, size[::-1], mode="bicubic", align_corners=False)[0].permute(1, 2, 0).numpy()
    spread = np.atleast_1d(high - low)
    shares = np.where(spread > 0, (smooth - low) / np.where(spread > 0, spread, 1), 0.5).clip(0, 1)
    rgb = colormaps[COLOURS](shares[..., 0])[..., :3] if values.ndim == 2 else shares
    return Image.fromarray((rgb * 255).round().astype(np.uint8))


def over(picture: Image.Image, coloured_map: Image.Image) -> Image.Image:
    """The coloured map over the picture in grey, of the map's size."""
    grey = picture.resize(coloured_map.size, Image.Resampling.LANCZOS).convert("L").convert("RGB")
    return Image.blend(grey, coloured_map, OPACITY)


def mark(drawn: Image.Image, size: tuple[int, int], place: Sequence[float]) -> None:
    """Draws a point (x, y) or a box (x1, y1, x2, y2), in pixels of a picture of this size, onto its drawing."""
    scale = (drawn.width / size[0], drawn.height / size[1])
    corners = [value * scale[at % 2] for at, value in enumerate(place)]
    line = max(2, round(max(drawn.size) / 320))
    draw = ImageDraw.Draw(drawn)
    outline = draw.rectangle
    if len(corners) == 2:
        (x, y), radius = corners, 4 * line
        corners, outline = [x - radius, y - radius, x + radius, y + radius], draw.ellipse
    outline(corners, outline="black", width=line + 2)
    outline([corners[0] + 1, corners[1] + 1, corners[2] - 1, corners[3] - 1], outline="white", width=line)


def colour_stops(steps: int = 9) -> list[str]:
    """The colour map as CSS colours, from little to much."""
    return [to_hex(colour) for colour in colormaps[COLOURS](np.linspace(0, 1, steps))]
