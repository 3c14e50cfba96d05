"""Importer of easy-vqa (PyPI, MIT): 4,000 training and 1,000 test pictures of one shape each, with 38,575 and 9,673
questions.

The published test pictures are the test split. The published training pictures 0 to 3,799 are the train split and
3,800 to 3,999 the validation split. A picture is one source item; all its questions travel in one record.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from typing import Any

from PIL import Image, ImageChops

from finecap.corpus.caption_pair import Facts, captions
from finecap.corpus.drawing.raster import encode_png
from finecap.corpus.levels import level_of
from finecap.corpus.positions import place_words, span
from finecap.corpus.seeding import rng_for
from finecap.records import QA, Record, new_record

CAPACITY = {"train": 3800, "validation": 200, "test": 1000}
SOURCE = "easy-vqa"
UPSCALED_SIDE = {"nano": 84, "small": 112, "base": 224, "full": 448}
COLORS: dict[Any, str] = {
    (255, 0, 0): "red",
    (0, 255, 0): "green",
    (0, 0, 255): "blue",
    (255, 255, 0): "yellow",
    (0, 0, 0): "black",
    (128, 128, 128): "gray",
    (165, 42, 42): "brown",
    (0, 128, 128): "teal",
}
RIM = 60  # difference from the background, of 255, from which a pixel of the smoothed rim counts as the shape
_BEYOND_RIM = [255 * (value > RIM) for value in range(256)]
# The least share of its box that a shape fills, measured on all pictures: 0.97, 0.74 to 0.91, 0.50 to 0.70.
LEAST_FILLED = {"rectangle": 0.94, "circle": 0.72, "triangle": 0.0}
BRIEF = ("There is a single shape on a plain light background.", "It is filled with one color and has no outline.")
COMMON = (
    "The picture shows a single flat shape and nothing else.",
    "Its background is plain and very light, and it is the same from one side of the picture to the other.",
    "The shape is filled with one color all over; it has no outline, no shadow and no pattern.",
    "A picture of this kind shows one of three shapes in one of eight colors, somewhere and of any size.",
)


@functools.cache
def _questions(published_split: str) -> dict[int, list[QA]]:
    import easy_vqa

    texts, answers, image_ids = (
        easy_vqa.get_test_questions() if published_split == "test" else easy_vqa.get_train_questions()
    )
    by_image: dict[int, list[QA]] = defaultdict(list)
    for text, answer, image_id in zip(texts, answers, image_ids, strict=True):
        by_image[image_id].append({"question": text, "answers": [answer], "kind": "easyvqa"})
    return by_image


@functools.cache
def _paths(published_split: str) -> dict[int, str]:
    import easy_vqa

    return easy_vqa.get_test_image_paths() if published_split == "test" else easy_vqa.get_train_image_paths()


def generate(index: int, seed: int, split: str, difficulty: str) -> Record:
    """Record number `index` of a split. `seed` changes nothing: the set is fixed.

    Raises:
        ValueError: if the split holds no picture of that number.
    """
    if not 0 <= index < CAPACITY[split]:
        raise ValueError(f"easy-vqa has {CAPACITY[split]} {split} pictures, so there is no number {index}")
    published = "test" if split == "test" else "train"
    number = index + (CAPACITY["train"] if split == "validation" else 0)
    side = UPSCALED_SIDE[difficulty]
    with Image.open(_paths(published)[number]) as picture:
        small = picture.convert("RGB")
    image = small.resize((side, side), Image.Resampling.BICUBIC)
    name, questions = f"{SOURCE}/{published}-{number}", _questions(published)[number]
    words = rng_for("easyvqa-captions", index, seed, split, difficulty)
    written = captions(words, facts(small, difficulty == "nano"), SOURCE, split, level_of(difficulty).caption_tokens)
    return new_record(name, encode_png(image), image.size, SOURCE, "MIT", split, [], questions, captions=written)


def facts(image: Image.Image, brief: bool) -> Facts:
    """Facts of a published picture, from its pixels: its questions tell neither shape nor colour of some pictures, and
    of none where the shape is.
    """
    background = Image.new("RGB", image.size, image.getpixel((0, 0)))
    apart = functools.reduce(ImageChops.lighter, ImageChops.difference(image, background).split())
    mask = apart.point(_BEYOND_RIM)
    box = x1, y1, x2, y2 = mask.getbbox() or (0, 0, *image.size)
    filled = mask.histogram()[255] / ((x2 - x1) * (y2 - y1))
    shape = next(name for name, least in LEAST_FILLED.items() if filled >= least)
    x, y = (x1 + x2) // 2, (y1 + y2) // 2
    color, place = COLORS[image.getpixel((x, y))], place_words(x, y, image.size)
    own = [f"It is a {color} {shape} at the {place}.", span(shape, box, image.size)]
    return Facts(f"A {color} {shape} at the {place}.", BRIEF if brief else COMMON, own)
