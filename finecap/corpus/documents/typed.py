"""Typed forms, the documents of the smallest level: one field a line on a grid of character cells.

Short words come from a closed list, and there the pair of field name and word is owned by a split, so that a test form
asks for a pairing that train has never shown. Numbers are owned as strings.
"""

from __future__ import annotations

import random

from PIL import Image, ImageDraw

from finecap.corpus.documents.page import Document
from finecap.corpus.drawing.raster import Box, draw_text, union
from finecap.corpus.levels import DocLevel
from finecap.corpus.seeding import split_of
from finecap.records import QA, Region, region

NUMBER_FIELDS = ("total", "age", "score", "page", "room", "cost", "seat", "bus", "year", "size")
WORD_FIELDS = ("name", "item", "team", "tag", "word", "mark", "pet", "shop")
WORDS = tuple(
    """
    ant arm bag bat bear bed bee bell bird boat bone book boot bowl box bus cake cap car cat coat corn cow cup
    deer desk dog door drum duck egg eye fan fish flag fork fox frog gate gift goat hand hat hen hill home horn
    jam jar key king kite lamp leaf lion map milk moon nest net nut owl park pear pen pig pin pipe pond pot rain
    ring road roof rope rose salt sand seed ship shoe sky snow sock soup star sun tea tent tree vase wall wind
    wolf wood yard zoo
    """.split()  # noqa: SIM905
)
INKS = ((16, 16, 16), (20, 30, 110), (110, 15, 20), (10, 75, 30), (70, 20, 90))
PAPERS = ((255, 255, 255), (250, 247, 238), (238, 244, 250), (242, 250, 240))


def typed_form(rng: random.Random, level: DocLevel, split: str) -> Document:
    """A form whose values the split owns; its regions are in reading order."""
    fields = choose_fields(rng, rng.randint(*level.lines), split)
    size = rng.choice([size for size in level.sizes if size[1] >= 2 * level.cell * len(fields)])
    image = Image.new("RGB", size, rng.choice(PAPERS))
    regions = typewrite(rng, level, ImageDraw.Draw(image), fields, rng.choice(INKS))
    questions = [question(name, value) for name, value in rng.sample(fields, len(fields))]
    caption = "A form: " + ", ".join(f"{name} {value}" for name, value in fields) + "."
    key = "+".join(f"{name}={value}" for name, value in fields)
    return Document("typed", image, regions, questions, caption, key)


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
        value = str(rng.randint(10, 99) if rng.random() < 0.3 else rng.randint(100, 999))
        if split_of("doc-number", value) == split:
            return value


def own_word(rng: random.Random, name: str, split: str) -> str:
    """A word that the split owns in this field."""
    while True:
        value = rng.choice(WORDS)
        if split_of("doc-pair", f"{name}={value}") == split:
            return value


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


def line_regions(words: list[tuple[str, Box]]) -> list[Region]:
    """One line region followed by its word regions."""
    line = region(union([box for _, box in words]), "document_text", "line", text=" ".join(word for word, _ in words))
    return [line, *(region(box, "document_text", "word", text=word) for word, box in words)]
