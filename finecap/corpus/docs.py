"""Rendered documents in DocVQA's schema: a picture, questions, exact answers, and a box for every word, line and block.

What is held out: every answer value is owned by one split (`finecap.corpus.seeding.split_of`). Numbers and free text are owned as
strings: a number that is an answer in the test split is never drawn as a field value in train. Short words of the nano forms come from a
closed list, and there the pair of field name and word is owned, so that a test form asks for a pairing that train has never shown.
Every drawn field value of a form belongs to the record's split, so transcriptions do not leak either.
"""

from __future__ import annotations

import random

from PIL import Image, ImageDraw

from finecap.corpus.levels import DocLevel, level_of
from finecap.corpus.raster import Box, draw_text, encode_png, text_width, union
from finecap.corpus.seeding import rng_for, split_of
from finecap.records import QA, Record, Region, region

SOURCE = "finevit-docs"
LICENSE = "text: generated here; fonts: DejaVu (Bitstream Vera licence)"

NUMBER_FIELDS = ("total", "age", "score", "page", "room", "cost", "seat", "bus", "year", "size")
WORD_FIELDS = ("name", "item", "team", "tag", "word", "mark", "pet", "shop")
WORDS = tuple(
    [
        "ant",
        "arm",
        "bag",
        "bat",
        "bear",
        "bed",
        "bee",
        "bell",
        "bird",
        "boat",
        "bone",
        "book",
        "boot",
        "bowl",
        "box",
        "bus",
        "cake",
        "cap",
        "car",
        "cat",
        "coat",
        "corn",
        "cow",
        "cup",
        "deer",
        "desk",
        "dog",
        "door",
        "drum",
        "duck",
        "egg",
        "eye",
        "fan",
        "fish",
        "flag",
        "fork",
        "fox",
        "frog",
        "gate",
        "gift",
        "goat",
        "hand",
        "hat",
        "hen",
        "hill",
        "home",
        "horn",
        "jam",
        "jar",
        "key",
        "king",
        "kite",
        "lamp",
        "leaf",
        "lion",
        "map",
        "milk",
        "moon",
        "nest",
        "net",
        "nut",
        "owl",
        "park",
        "pear",
        "pen",
        "pig",
        "pin",
        "pipe",
        "pond",
        "pot",
        "rain",
        "ring",
        "road",
        "roof",
        "rope",
        "rose",
        "salt",
        "sand",
        "seed",
        "ship",
        "shoe",
        "sky",
        "snow",
        "sock",
        "soup",
        "star",
        "sun",
        "tea",
        "tent",
        "tree",
        "vase",
        "wall",
        "wind",
        "wolf",
        "wood",
        "yard",
        "zoo",
    ]
)
INKS = ((16, 16, 16), (20, 30, 110), (110, 15, 20), (10, 75, 30), (70, 20, 90))
PAPERS = ((255, 255, 255), (250, 247, 238), (238, 244, 250), (242, 250, 240))


def generate(index: int, seed: int, split: str, difficulty: str) -> Record:
    """Document number `index` of a split: a pure function of its arguments."""
    rng = rng_for("doc", index, seed, split, difficulty)
    level = level_of(difficulty).doc
    fields = choose_fields(rng, rng.randint(*level.lines), split)
    image, regions = draw_form(rng, level, fields)
    keys = "+".join(f"{name}={value}" for name, value in fields)
    asked = rng.sample(fields, min(level.questions, len(fields)))
    return {
        "id": f"{SOURCE}/{difficulty}-{seed}-{split}-{index:07d}/{keys}",
        "image": {"bytes": encode_png(image), "path": None},
        "width": image.width,
        "height": image.height,
        "source": SOURCE,
        "license": LICENSE,
        "split": split,
        "global_caption": "A form: " + ", ".join(f"{name} {value}" for name, value in fields) + ".",
        "captioner": SOURCE,
        "regions": regions,
        "qa": [question(name, value) for name, value in asked],
    }


def question(name: str, value: str) -> QA:
    """The question for one field."""
    return {"question": f"What is the {name}?", "answers": [value], "kind": "doc"}


def choose_fields(rng: random.Random, count: int, split: str) -> list[tuple[str, str]]:
    """`count` different field names with values that the split owns: about three numbers for two words."""
    fields: list[tuple[str, str]] = []
    while len(fields) < count:
        number = rng.random() < 0.6
        name = rng.choice(NUMBER_FIELDS if number else WORD_FIELDS)
        if any(name == taken for taken, _ in fields):
            continue
        fields.append((name, own_number(rng, split) if number else own_word(rng, name, split)))
    return fields


def own_number(rng: random.Random, split: str) -> str:
    """A number of two or three digits that the split owns."""
    while True:
        value = str(rng.randint(10, 99) if rng.random() < 0.5 else rng.randint(100, 999))
        if split_of("doc-number", value) == split:
            return value


def own_word(rng: random.Random, name: str, split: str) -> str:
    """A word that the split owns in this field."""
    while True:
        value = rng.choice(WORDS)
        if split_of("doc-pair", f"{name}={value}") == split:
            return value


def draw_form(rng: random.Random, level: DocLevel, fields: list[tuple[str, str]]) -> tuple[Image.Image, list[Region]]:
    """Field names in one column and values in the next, one line each; returns word and line regions in reading order."""
    width, height = rng.choice([size for size in level.sizes if size[1] >= 28 * len(fields)])
    paper, ink, face = rng.choice(PAPERS), rng.choice(INKS), rng.choice(level.faces)
    image = Image.new("RGB", (width, height), paper)
    draw = ImageDraw.Draw(image)
    if level.cell:
        return image, typewrite(rng, level, draw, fields, ink)
    size, left, column = fit_columns(rng, level, face, fields, width)
    pitch = height // len(fields)
    regions: list[Region] = []
    for row, (name, value) in enumerate(fields):
        baseline = row * pitch + (pitch + size) // 2 - size // 6 + rng.randint(-2, 2)
        words = [
            (name, draw_text(draw, face, size, name, left, baseline, ink)),
            (value, draw_text(draw, face, size, value, column, baseline, ink)),
        ]
        regions += line_regions(words)
    return image, regions


def typewrite(
    rng: random.Random,
    level: DocLevel,
    draw: ImageDraw.ImageDraw,
    fields: list[tuple[str, str]],
    ink: tuple[int, int, int],
) -> list[Region]:
    """One field a line on a grid of character cells, off it by two pixels at most."""
    face, size = level.faces[0], level.font_sizes[0]
    left = rng.randint(0, 2)
    regions: list[Region] = []
    for row, (name, value) in enumerate(fields):
        baseline = row * 2 * level.cell + size - 2 + rng.randint(0, 2)
        column = left + level.cell * (len(name) + 1)
        words = [
            (name, draw_text(draw, face, size, name, left, baseline, ink)),
            (value, draw_text(draw, face, size, value, column, baseline, ink)),
        ]
        regions += line_regions(words)
    return regions


def fit_columns(
    rng: random.Random, level: DocLevel, face: str, fields: list[tuple[str, str]], width: int
) -> tuple[int, int, int]:
    """Font size, left margin and start of the value column, in pixels; the largest size of a drawn range at which both columns fit."""
    size = rng.randint(*level.font_sizes)
    while True:
        names = max(text_width(face, size, name) for name, _ in fields)
        values = max(text_width(face, size, value) for _, value in fields)
        spare = width - names - values - size // 2 - 6
        if spare >= 0 or size <= 8:
            left = 3 + rng.randint(0, max(spare, 0) // 3)
            column = left + names + size // 2 + rng.randint(0, max(spare, 0) // 2)
            return size, left, column
        size -= 1


def line_regions(words: list[tuple[str, Box]]) -> list[Region]:
    """One line region followed by its word regions."""
    line = region(union([box for _, box in words]), "document_text", "line", text=" ".join(word for word, _ in words))
    return [line, *(region(box, "document_text", "word", text=word) for word, box in words)]
