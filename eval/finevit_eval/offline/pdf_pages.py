"""Pages of R's manuals (Debian's r-doc-pdf, GPL-2+) with lines and words from their text layer, boxes included."""

import math
import random
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise
from typing import Any, NamedTuple

import numpy as np
import pypdfium2
from PIL import Image
from pypdfium2.raw import FPDFText_GetUnicode

from finecap.pictures import encoded
from finecap.records import Record, Region, new_record, region
from finevit_eval.offline.debian import DebianFile, fetch, read_files

MANUALS = DebianFile(
    name="r-doc-pdf_4.2.2.20221110-2_all.deb",
    folder="r/r-base",
    size=9_846_552,
    sha1="85160bdfd875da09ac3f133a550b63950c26e051",
    sha256="beb104ad5818d261f280a868294645ca31d7c63365f2c9a55aa3ca9aad5aa71d",
)
FOLDER = "/usr/share/R/doc/manual"
COPIES = ("refman.pdf",)
"""Of fullrefman.pdf."""
LICENSE = "GPL-2+ (manuals of R)"
PAGES = 12
"""Of a manual, drawn with a fixed seed."""
ASKED = 4
"""Lines and as many words of a page that become regions."""
SCALE = 2.0
"""Pixels per point: 144 dpi."""
LINE_END_HYPHENS = ("\x02", "\ufffe")
"""What PDFium writes for the hyphen of a word that goes on in the next line."""
WIDE_GAP = 2.0
"""In heights of a line: what is further apart stands in another column."""
LEAST_LETTERS = 3
CLEAR, PAPER = 3, 200
"""Pixels beside a region that must be paper, and what paper is above, of 255."""

Box = tuple[float, float, float, float]


class Piece(NamedTuple):
    """A text and its box in pixels of the rendered page: x1, y1, x2, y2."""

    text: str
    box: Box


def manual_records() -> Iterator[Record]:
    """A record for some pages of each manual.

    Raises:
        ValueError: The package cannot be had.
    """
    for name, content in read_files(fetch(MANUALS), FOLDER, {".pdf"}).items():
        if name not in COPIES:
            yield from islice(page_records(content, name.removesuffix(".pdf")), PAGES)


def page_records(pdf: bytes, name: str) -> Iterator[Record]:
    """A record for each page that has enough text, in an order drawn from the name.

    Args:
        pdf: The file.
        name: The ids begin with it.
    """
    document, rng = pypdfium2.PdfDocument(pdf), random.Random(name)
    for number in rng.sample(range(len(document)), len(document)):
        page = document[number]
        picture = page.render(scale=SCALE).to_pil().convert("RGB")
        if regions := _regions(lines_of(page), picture, rng):
            content = encoded(picture, "PNG")
            yield new_record(f"{name}/{number + 1}", content, picture.size, MANUALS.name, LICENSE, "test", regions, [])


def _regions(lines: Sequence[Sequence[Piece]], picture: Image.Image, rng: random.Random) -> list[Region]:
    """Some lines and words that stand once on the page, also as part of others; none if there are not enough."""
    wholes = [joined(line) for line in lines]
    everything = "\n".join(whole.text for whole in wholes).lower()
    grey_HW = np.asarray(picture.convert("L"))
    several = (whole for whole, line in zip(wholes, lines, strict=True) if len(line) > 1)
    chosen: list[Region] = []
    for label, pieces in (("line", several), ("word", (word for line in lines for word in line))):
        named = [piece for piece in pieces if is_usable(piece.text) and everything.count(piece.text.lower()) == 1]
        usable = [piece for piece in named if stands_alone(piece.box, grey_HW)]
        if len(usable) < ASKED:
            return []
        chosen += [region(one.box, "document_text", label, text=one.text) for one in rng.sample(usable, ASKED)]
    return chosen


def stands_alone(box: Box, grey_HW: np.ndarray) -> bool:
    """Is there paper on both sides of a box? Underscores are often rules, of which a text layer says nothing.

    Args:
        box: In whole pixels.
        grey_HW: The page, 0 to 255.
    """
    left, top, right, bottom = (int(side) for side in box)
    beside = (
        grey_HW[top : bottom + CLEAR, max(left - CLEAR, 0) : left],
        grey_HW[top : bottom + CLEAR, right:][:, :CLEAR],
    )
    return all(bool((part > PAPER).all()) for part in beside)


def is_usable(text: str) -> bool:
    """Are there enough letters, and nothing that is no character, such as the signs of a font of its own?"""
    return text.isprintable() and sum(map(str.isalnum, text)) >= LEAST_LETTERS


def joined(words: Sequence[Piece]) -> Piece:
    """Words of a line as one piece."""
    return Piece(" ".join(word.text for word in words), around([word.box for word in words]))


def around(boxes: Sequence[Box]) -> Box:
    """The smallest box around all."""
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)


def lines_of(page: Any) -> list[list[Piece]]:
    """The words of each line of a page that is neither turned nor cropped, in the order of the file. The boxes are
    whole pixels around the outlines of the glyphs, so that they hold all the ink.
    """
    lines: list[list[list[Piece]]] = [[[]]]
    for glyph in _glyphs(page):
        words = lines[-1]
        last = next((word[-1] for word in reversed(words) if word), None)
        if glyph.text in "\r\n" or (last and not _overlap(last.box, glyph.box)):
            words = [[]]
            lines.append(words)
        if glyph.text.isspace():
            words.append([])
        else:
            words[-1].append(glyph)
    return [part for line in lines for part in _columns([_word(glyphs) for glyphs in line if glyphs])]


def _glyphs(page: Any) -> Iterator[Piece]:
    textpage, height = page.get_textpage(), page.get_height()
    for index in range(textpage.count_chars()):
        text = chr(FPDFText_GetUnicode(textpage, index))
        left, bottom, right, top = textpage.get_charbox(index)
        box = (left * SCALE, (height - top) * SCALE, right * SCALE, (height - bottom) * SCALE)
        yield Piece("-" if text in LINE_END_HYPHENS else text, box)


def _overlap(first: Box, second: Box) -> bool:
    """Do they share a height, and so a line? White space has boxes without area."""
    return first[1] <= second[3] and second[1] <= first[3]


def _word(glyphs: Sequence[Piece]) -> Piece:
    left, top, right, bottom = around([glyph.box for glyph in glyphs])
    box = (math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom))
    return Piece("".join(glyph.text for glyph in glyphs), box)


def _columns(words: Sequence[Piece]) -> Iterator[list[Piece]]:
    """A line in parts, where it has wide gaps."""
    if not words:
        return
    _, top, _, bottom = around([word.box for word in words])
    part = [words[0]]
    for word, following in pairwise(words):
        if following.box[0] - word.box[2] > WIDE_GAP * (bottom - top):
            yield part
            part = []
        part.append(following)
    yield part
