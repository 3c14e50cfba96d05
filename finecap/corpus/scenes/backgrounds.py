"""Photographs that scikit-image and scikit-learn ship inside their wheels, cut into backgrounds; nothing is
downloaded.

Photographs are split, not crops: a photograph behind a training scene is never behind a test scene.
"""

from __future__ import annotations

import functools
import random

from PIL import Image

from finecap.corpus.drawing.raster import package_file

PHOTOS = {
    "train": {
        "astronaut": "skimage/data/astronaut.png",
        "brick": "skimage/data/brick.png",
        "chelsea": "skimage/data/chelsea.png",
        "china": "sklearn/datasets/images/china.jpg",
        "grass": "skimage/data/grass.png",
        "hubble": "skimage/data/hubble_deep_field.jpg",
        "ihc": "skimage/data/ihc.png",
        "motorcycle": "skimage/data/motorcycle_left.png",
    },
    "validation": {"rocket": "skimage/data/rocket.jpg"},
    "test": {
        "coffee": "skimage/data/coffee.png",
        "flower": "sklearn/datasets/images/flower.jpg",
        "gravel": "skimage/data/gravel.png",
    },
}
# What a photograph itself shows. No drawing on it may have the same name, or "the cat" would fit two things.
SHOWS = {
    "astronaut": ("rocket",),
    "chelsea": ("cat",),
    "china": ("castle",),
    "coffee": ("spoon",),
    "flower": ("sunflower", "rose", "tulip", "bouquet"),
    "motorcycle": ("motorcycle", "bicycle", "ladder"),
    "rocket": ("rocket",),
}
LICENSE = "photographs shipped with scikit-image and scikit-learn (public domain, CC0 or CC-BY: see each package)"


@functools.cache
def _photo(path: str) -> Image.Image:
    package, _, inside = path.partition("/")
    with Image.open(package_file(package, inside)) as picture:
        return picture.convert("RGB")


def choose_photo(rng: random.Random, split: str) -> str:
    """The name of one of the split's photographs."""
    return rng.choice(sorted(PHOTOS[split]))


def crop_background(
    rng: random.Random, split: str, name: str, size: tuple[int, int], fade: tuple[float, float]
) -> Image.Image:
    """A random crop of a photograph, scaled to `size` (width, height) and faded towards a flat light or grey tone by a
    share drawn from the range `fade`.
    """
    photo = _photo(PHOTOS[split][name])
    width, height = size
    scale = rng.uniform(0.4, 1.0) * min(photo.width / width, photo.height / height)
    crop = (width * scale, height * scale)
    left, top = rng.uniform(0, photo.width - crop[0]), rng.uniform(0, photo.height - crop[1])
    resampling = Image.Resampling.BOX if scale > 1 else Image.Resampling.BICUBIC
    image = photo.resize(size, resampling, box=(left, top, left + crop[0], top + crop[1]), reducing_gap=2.0)
    tone = rng.randint(170, 245)
    return Image.blend(image, Image.new("RGB", size, (tone, tone, tone)), rng.uniform(*fade))
