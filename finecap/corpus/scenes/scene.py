"""Named drawings on photographs, in RefCOCO's schema: referring expressions that fit exactly one object, with exact
visible boxes.

What is held out. Photographs: see `backgrounds`. Arrangements: the set of drawings together with the third of the
picture, across and down, in which each one's centre lies; an arrangement that hashes to the test split is never drawn
in train. From level base on the drawings themselves: a scene of the test split shows at least one drawing that no
training scene shows.
"""

from __future__ import annotations

import random

from finecap.corpus.caption_pair import captions, sentence
from finecap.corpus.drawing import degrade
from finecap.corpus.drawing.raster import encode_picture
from finecap.corpus.levels import SceneLevel, level_of
from finecap.corpus.positions import cell, place_words
from finecap.corpus.scenes import backgrounds, placing, referring, sprites
from finecap.corpus.scenes.facts import facts
from finecap.corpus.scenes.placing import Placed
from finecap.corpus.seeding import rng_for, split_of
from finecap.records import Record, new_record, region

SOURCE = "finevit-scenes"
LICENSE = f"{sprites.LICENSE}; {backgrounds.LICENSE}"


def generate(index: int, seed: int, split: str, difficulty: str) -> Record:
    """Scene number `index` of a split: a pure function of its arguments."""
    rng = rng_for("scene", index, seed, split, difficulty)
    level = level_of(difficulty).scene
    size = rng.choice(level.sizes)
    photo = backgrounds.choose_photo(rng, split)
    drawings = tuple(item for item in drawings_of(level, split) if item.noun not in backgrounds.SHOWS.get(photo, ()))
    placed = place_owned(rng, level, size, drawings, split)
    image = backgrounds.crop_background(rng, split, photo, size, level.fade)
    image = placing.compose(image, placed)
    image, quality = degrade.photograph(rng, image, level.degradation)
    described = [describe(item, size) for item in placed]
    words = rng_for("scene-captions", index, seed, split, difficulty)
    told = facts(words, placed, described, size, apart=level.visible == 1)
    return new_record(
        f"{SOURCE}/{difficulty}-{seed}-{split}-{index:07d}/{arrangement(placed, size)}@{photo}",
        encode_picture(image, quality),
        size,
        SOURCE,
        LICENSE,
        split,
        [
            region(item.box, "object", item.sprite.noun, caption=text)
            for item, text in zip(placed, described, strict=True)
        ],
        referring.questions(rng, level, placed),
        sentence("; ".join(described)),
        captions(words, told, SOURCE, split, level_of(difficulty).caption_tokens),
    )


def place_owned(
    rng: random.Random, level: SceneLevel, size: tuple[int, int], drawings: tuple[sprites.Sprite, ...], split: str
) -> list[Placed]:
    """Objects in an arrangement that the split owns, of which at least one can be referred to."""
    while True:
        spots = placing.choose(rng, level, size, drawings)
        if (
            level.hold_out_drawings
            and split != "train"
            and not any(split_of("scene-drawing", spot.sprite.key) == split for spot in spots)
        ):
            continue
        if split_of("scene-arrangement", arrangement(spots, size)) != split:
            continue
        placed = placing.measure(spots, size)
        if all(item.visible >= level.visible for item in placed) and any(
            referring.expressions(item, placed) for item in placed
        ):
            return placed


def drawings_of(level: SceneLevel, split: str) -> tuple[sprites.Sprite, ...]:
    """Training scenes use the training drawings only; test scenes mix them with the test drawings."""
    if not level.hold_out_drawings:
        return sprites.vocabulary(level.vocabulary, None)
    train = sprites.vocabulary(level.vocabulary, "train")
    return train if split == "train" else train + 4 * sprites.vocabulary(level.vocabulary, split)


def middle(item: placing.Spot) -> tuple[float, float]:
    """Centre of the whole object in pixels, hidden parts included."""
    return item.left + item.width / 2, item.top + item.height / 2


def arrangement(spots: list[Placed] | list[placing.Spot], size: tuple[int, int]) -> str:
    """The source key of a scene: its drawings with their cells, sorted."""
    return "+".join(sorted(f"{item.sprite.key}:{'-'.join(cell(*middle(item), size))}" for item in spots))


def describe(item: Placed, size: tuple[int, int]) -> str:
    """One object in words: colour where it is certain, name, place, and whether it is partly hidden."""
    name = f"{item.sprite.color} {item.sprite.noun}" if item.sprite.color else item.sprite.noun
    hidden = ", partly hidden" if item.visible < 0.9 else ""
    return f"{referring.article(name)} at the {place_words(*middle(item), size)}{hidden}"
