"""Rendered documents in DocVQA's schema: a picture, questions, exact answers, and a box for every word, line and
block.

Each answer belongs to one split as a string (`finecap.corpus.seeding.split_of`): a name, a number or a date that is an
answer in the test split is never an answer in train. In the typed forms of the smallest level, words come from a
closed list, so the pair of field name and word belongs to one split (see `finecap.corpus.documents.typed`). All values
on such a form belong to its split, so transcriptions do not leak either. On whole pages, the prose between the values
is the same kind of random English in every split; no question asks for it.
"""

from __future__ import annotations

import random

from finecap.corpus.caption_pair import captions
from finecap.corpus.documents.facts import facts
from finecap.corpus.documents.page import Document, Page, Style
from finecap.corpus.documents.page_kinds import TEMPLATES
from finecap.corpus.documents.typed import INKS, PAPERS, typed_form
from finecap.corpus.drawing import degrade
from finecap.corpus.drawing.raster import encode_picture
from finecap.corpus.levels import DocLevel, level_of
from finecap.corpus.seeding import rng_for
from finecap.records import Record, Region, new_record

SOURCE = "finevit-docs"
LICENSE = "text: generated here and by Faker (MIT); fonts: DejaVu (Bitstream Vera licence)"


def generate(index: int, seed: int, split: str, difficulty: str) -> Record:
    """Document number `index` of a split: a pure function of its arguments."""
    rng = rng_for("doc", index, seed, split, difficulty)
    level = level_of(difficulty).doc
    drawn = draw(rng, level, split)
    image, quality = degrade.photograph(rng, drawn.image, level.degradation)
    words = rng_for("doc-captions", index, seed, split, difficulty)
    return new_record(
        f"{SOURCE}/{difficulty}-{seed}-{split}-{index:07d}/{drawn.key}",
        encode_picture(image, quality),
        image.size,
        SOURCE,
        LICENSE,
        split,
        drawn.regions,
        drawn.questions[: level.questions],
        drawn.caption,
        captions(words, facts(words, drawn), SOURCE, split, level_of(difficulty).caption_tokens),
    )


def draw(rng: random.Random, level: DocLevel, split: str) -> Document:
    """A document of a level, clean."""
    return typed_form(rng, level, split) if level.cell else whole_page(rng, level, split)


def whole_page(rng: random.Random, level: DocLevel, split: str) -> Document:
    """A page of one of the level's templates, perhaps a little turned; its questions are shuffled."""
    while True:
        name = rng.choice(level.templates)
        page = Page(rng.choice(level.sizes), rng.choice(PAPERS))
        style = Style(rng.choice(level.faces), rng.randint(*level.font_sizes), rng.choice(INKS))
        questions, caption = TEMPLATES[name](rng, page, style, split)
        image, regions = page.finish(rng.uniform(-level.rotation, level.rotation))
        questions = [item for item in questions if is_visible(item["answers"][0], regions)]
        if questions:
            rng.shuffle(questions)
            return Document(name, image, regions, questions, caption, f"{name}:{questions[0]['answers'][0]}")


def is_visible(answer: str, regions: list[Region]) -> bool:
    """Whether an answer stands in one line of the page, so that it can be read off."""
    return any(answer in str(item["text"]) for item in regions if item["label"] == "line")
