"""Which pixels have the colour that a word names.

Colours are compared in OKLab (Ottosson 2020), where equal distances look about equally far apart; white is 1 from
black.
"""

from __future__ import annotations

import numpy as np
from PIL import ImageColor

from finecap.engine.language.colour_words import SHADES

# A pixel has a named colour if no other name's nearest shade is nearer to it by more than this. Two neighbouring
# colour words lie about 0.15 apart, and people disagree on what lies between them.
SLACK = 0.05
# Pixels no further apart are of one paint: scanned and JPEG-compressed paint varies.
SAME_PAINT = 0.06


def oklab(rgb: np.ndarray) -> np.ndarray:
    """Lightness, green-red and blue-yellow of colours.

    Args:
        rgb: (..., 3) sRGB, 0-255.

    Returns:
        (..., 3) float32: L 0-1, a and b about -0.4 to 0.4.
    """
    part = np.asarray(rgb, np.float32) / 255
    linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
    cones = np.cbrt(linear @ _TO_CONES.T)
    return (cones @ _TO_LAB.T).astype(np.float32)


_TO_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ],
    np.float32,
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ],
    np.float32,
)
_LAB_OF = {
    name: oklab(np.array([ImageColor.getrgb(shade) for shade in shades.split()])) for name, shades in SHADES.items()
}


def has_colour(lab: np.ndarray, name: str) -> np.ndarray:
    """Which pixels may be called by this colour.

    Args:
        lab: (..., 3) of `oklab`.
        name: one of SHADES.

    Returns:
        (...) bool.
    """
    nearest = np.min([_distance(lab, shades) for shades in _LAB_OF.values()], axis=0)
    return _distance(lab, _LAB_OF[name]) <= nearest + SLACK


def is_called(lab: np.ndarray, name: str) -> bool:
    """Is one colour (3,) best named so? Stricter than `has_colour`: no other name is nearer."""
    return bool(_distance(lab, _LAB_OF[name]) <= min(_distance(lab, shades) for shades in _LAB_OF.values()))


def _distance(lab: np.ndarray, shades: np.ndarray) -> np.ndarray:
    """To the nearest of some (n, 3) shades."""
    return np.min([np.linalg.norm(lab - shade, axis=-1) for shade in shades], axis=0)
