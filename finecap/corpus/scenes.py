"""Named drawings on photographs, in RefCOCO's schema: referring expressions that fit exactly one object, with exact visible boxes.

What is held out: photographs (see `backgrounds`), and arrangements: the set of drawings together with the third of the picture, across
and down, in which each one's centre lies. An arrangement that hashes to the test split is never drawn in train. From level base on,
drawings are held out as well.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
from PIL import Image

from finecap.corpus import backgrounds, sprites
from finecap.corpus.levels import SceneLevel, level_of
from finecap.corpus.raster import Box, encode_png
from finecap.corpus.seeding import rng_for, split_of
from finecap.records import QA, Record, grounding_answer, region


SOURCE = "finevit-scenes"
LICENSE = f"{sprites.LICENSE}; {backgrounds.LICENSE}"
ROWS = ("top", "middle", "bottom")
COLUMNS = ("left", "center", "right")


@dataclass(frozen=True)
class Placed:
    """An object in a scene: `box` is the tight box of its visible pixels, `visible` the fraction of its own pixels that can be seen."""

    sprite: sprites.Sprite
    box: Box
    visible: float


def generate(index: int, seed: int, split: str, difficulty: str) -> Record:
    """Scene number `index` of a split: a pure function of its arguments."""
    rng = rng_for("scene", index, seed, split, difficulty)
    level = level_of(difficulty).scene
    size = rng.choice(level.sizes)
    placed, owner_picture = place_owned(rng, level, size, split)
    photo, image = backgrounds.crop_background(rng, split, size, level.fade)
    image.paste(owner_picture, (0, 0), owner_picture)
    key = f"{arrangement(placed, size)}@{photo}"
    return {
        "id": f"{SOURCE}/{difficulty}-{seed}-{split}-{index:07d}/{key}",
        "image": {"bytes": encode_png(image), "path": None},
        "width": size[0],
        "height": size[1],
        "source": SOURCE,
        "license": LICENSE,
        "split": split,
        "global_caption": caption(placed, size),
        "captioner": SOURCE,
        "regions": [region(item.box, "object", item.sprite.name, caption=f"{article(item.sprite.name)} at the {where(item, size)}") for item in placed],
        "qa": questions(rng, level, placed, size),
    }


def place_owned(
    rng: random.Random, level: SceneLevel, size: tuple[int, int], split: str
) -> tuple[list[Placed], Image.Image]:
    """Objects in an arrangement that the split owns, and their drawing on a transparent layer."""
    while True:
        placed, layer = place(rng, level, size)
        if split_of("scene-arrangement", arrangement(placed, size)) == split:
            return placed, layer


def place(rng: random.Random, level: SceneLevel, size: tuple[int, int]) -> tuple[list[Placed], Image.Image]:
    """Paste drawings one over the other, keeping a map of which object owns each pixel; boxes are read off that map."""
    owner = np.full((size[1], size[0]), -1, dtype=np.int16)
    layer = Image.new("RGBA", size)
    names = sprites.vocabulary(level.vocabulary)
    chosen: list[sprites.Sprite] = []
    areas: list[int] = []
    for _ in range(rng.randint(*level.objects)):
        sprite = rng.choice(chosen) if chosen and rng.random() < 0.25 else rng.choice(names)
        picture = sprites.render(sprite.key, rng.randint(*level.object_sides))
        spot = find_spot(rng, owner, areas, picture, level.visible)
        if spot is None:
            continue
        left, top = spot
        mask = sprites.opaque_mask(picture)
        owner[top : top + picture.height, left : left + picture.width][mask] = len(chosen)
        layer.alpha_composite(picture, (left, top))
        chosen.append(sprite)
        areas.append(int(mask.sum()))
    placed = []
    for number, (sprite, area) in enumerate(zip(chosen, areas, strict=True)):
        visible = owner == number
        placed.append(Placed(sprite, mask_box(visible), float(visible.sum()) / area))
    return placed, layer


def find_spot(
    rng: random.Random, owner: np.ndarray, areas: list[int], picture: Image.Image, least_visible: float
) -> tuple[int, int] | None:
    """A random place where every object that is already there stays visible enough; None after 40 tries."""
    height, width = owner.shape
    mask = sprites.opaque_mask(picture)
    for _ in range(40):
        left, top = rng.randint(0, width - picture.width), rng.randint(0, height - picture.height)
        hidden = owner.copy()
        hidden[top : top + picture.height, left : left + picture.width][mask] = -1
        if all((hidden == number).sum() >= least_visible * area for number, area in enumerate(areas)):
            return left, top
    return None


def mask_box(mask: np.ndarray) -> Box:
    """Tight box of the true pixels of a (height, width) mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def cell(item: Placed, size: tuple[int, int]) -> tuple[str, str]:
    """The third of the picture, down and across, in which the centre of the visible box lies."""
    x, y = (item.box[0] + item.box[2]) / 2, (item.box[1] + item.box[3]) / 2
    return ROWS[min(int(3 * y / size[1]), 2)], COLUMNS[min(int(3 * x / size[0]), 2)]


def where(item: Placed, size: tuple[int, int]) -> str:
    """The cell in words: "top left", "center", "bottom"."""
    row, column = cell(item, size)
    if row == "middle":
        return column
    return row if column == "center" else f"{row} {column}"


def arrangement(placed: list[Placed], size: tuple[int, int]) -> str:
    """The source key of a scene: its drawings with their cells, in an order of their own."""
    return "+".join(sorted(f"{item.sprite.key}:{'-'.join(cell(item, size))}" for item in placed))


def article(name: str) -> str:
    """The name with its indefinite article."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def caption(placed: list[Placed], size: tuple[int, int]) -> str:
    """Every object with its place."""
    return "; ".join(f"{article(item.sprite.name)} at the {where(item, size)}" for item in placed).capitalize() + "."


def referring_expression(target: Placed, placed: list[Placed]) -> str | None:
    """An expression that fits the target and nothing else, or None.

    The name alone where it is unique. Of two alike, the side on which the target lies, if their centres are at least a quarter of a box
    apart in that direction, so that no reader could call it the other way round.
    """
    same = [item for item in placed if item.sprite.name == target.sprite.name]
    if len(same) == 1:
        return f"the {target.sprite.name}"
    if len(same) > 2:
        return None
    other = next(item for item in same if item is not target)
    dx = (target.box[0] + target.box[2] - other.box[0] - other.box[2]) / 2
    dy = (target.box[1] + target.box[3] - other.box[1] - other.box[3]) / 2
    extent = max(target.box[2] - target.box[0], target.box[3] - target.box[1]) / 2
    if abs(dx) >= max(abs(dy), extent):
        return f"the {target.sprite.name} on the {'left' if dx < 0 else 'right'}"
    if abs(dy) >= max(abs(dx), extent):
        return f"the {target.sprite.name} at the {'top' if dy < 0 else 'bottom'}"
    return None


def questions(rng: random.Random, level: SceneLevel, placed: list[Placed], size: tuple[int, int]) -> list[QA]:
    """Grounding questions, at most `level.questions`, each about another object."""
    found: list[QA] = []
    for item in rng.sample(placed, len(placed)):
        expression = referring_expression(item, placed)
        if expression and len(found) < level.questions:
            found.append({"question": expression, "answers": [grounding_answer(item.box)], "kind": "grounding"})
    return found
