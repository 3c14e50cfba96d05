"""Where objects go in a scene, and what of them can be seen: an owner map says which object each pixel belongs to."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from finecap.corpus.drawing.raster import Box
from finecap.corpus.levels import SceneLevel
from finecap.corpus.scenes import sprites


@dataclass(frozen=True)
class Spot:
    """A drawing at a place: `left`, `top`, `width`, `height` in pixels before anything hides it."""

    sprite: sprites.Sprite
    side: int
    flipped: bool
    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True)
class Placed(Spot):
    """A drawing in its scene: `box` is the tight box of its visible pixels, `visible` the fraction of its own pixels
    that can be seen.
    """

    box: Box = field(default=(0, 0, 0, 0))
    visible: float = 1.0


def choose(
    rng: random.Random, level: SceneLevel, size: tuple[int, int], drawings: tuple[sprites.Sprite, ...]
) -> list[Spot]:
    """Drawings, sizes and places, later ones in front. Boxes overlap by at most `level.overlap` of the smaller one
    (that keeps objects apart where it is 0); an object that finds no place in 30 tries is left out.
    """
    spots: list[Spot] = []
    wanted = rng.randint(*level.objects)
    kinds = [rng.choice(drawings) for _ in range(wanted)]
    for number in range(1, wanted):
        if rng.random() < level.repeats and sum(kind == kinds[number - 1] for kind in kinds) < 3:
            kinds[number] = kinds[number - 1]
    for sprite in kinds:
        side, flipped = rng.randint(*level.object_sides), rng.random() < level.flips
        width, height = sprites.drawn_size(sprite.key, side)
        for _ in range(30):
            left, top = rng.randint(0, size[0] - width), rng.randint(0, size[1] - height)
            spot = Spot(sprite, side, flipped, left, top, width, height)
            if all(overlap(spot, other) <= level.overlap for other in spots):
                spots.append(spot)
                break
    return spots


def overlap(one: Spot, other: Spot) -> float:
    """Shared area of two boxes as a fraction of the smaller box."""
    across = min(one.left + one.width, other.left + other.width) - max(one.left, other.left)
    down = min(one.top + one.height, other.top + other.height) - max(one.top, other.top)
    smaller = min(one.width * one.height, other.width * other.height)
    return max(across, 0) * max(down, 0) / smaller


def owner_map(spots: list[Spot], size: tuple[int, int]) -> np.ndarray:
    """Which object each pixel shows, (height, width) int16, -1 for the background."""
    owner = np.full((size[1], size[0]), -1, dtype=np.int16)
    for number, spot in enumerate(spots):
        mask = sprites.opaque_mask(spot.sprite.key, spot.side, spot.flipped)
        owner[spot.top : spot.top + spot.height, spot.left : spot.left + spot.width][mask] = number
    return owner


def measure(spots: list[Spot], size: tuple[int, int]) -> list[Placed]:
    """Visible box and visible fraction of every object; one of which nothing can be seen gets fraction 0 and an empty
    box.
    """
    owner = owner_map(spots, size)
    placed = []
    for number, spot in enumerate(spots):
        window = owner[spot.top : spot.top + spot.height, spot.left : spot.left + spot.width] == number
        whole = int(sprites.opaque_mask(spot.sprite.key, spot.side, spot.flipped).sum())
        x1, y1, x2, y2 = mask_box(window)
        box = (x1 + spot.left, y1 + spot.top, x2 + spot.left, y2 + spot.top)
        placed.append(Placed(**vars(spot), box=box, visible=int(window.sum()) / whole))
    return placed


def mask_box(mask: np.ndarray) -> Box:
    """Tight box of the true pixels of a (height, width) mask; (0, 0, 0, 0) if there are none."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return 0, 0, 0, 0
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def compose(background: Image.Image, placed: list[Placed]) -> Image.Image:
    """The drawings on the background, in order, so that later ones are in front; returns RGB."""
    image = background.convert("RGBA")
    for item in placed:
        image.alpha_composite(sprites.render(item.sprite.key, item.side, item.flipped), (item.left, item.top))
    return image.convert("RGB")
