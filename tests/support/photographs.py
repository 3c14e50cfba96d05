"""Photographs that scikit-image ships in its package."""

from pathlib import Path

import skimage
from PIL import Image

# Colour photographs that look different from one another.
PHOTOGRAPHS = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "motorcycle_left.png",
    "rocket.jpg",
    "hubble_deep_field.jpg",
)


def photograph(name: str = "coffee.png") -> Image.Image:
    """As RGB, in its own size."""
    return Image.open(Path(skimage.__file__).parent / "data" / name).convert("RGB")
