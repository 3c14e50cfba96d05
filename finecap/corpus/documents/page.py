"""A page on which words are set one by one, so that the box of every word, line and block is known exactly.

Coordinates are pixels; y grows downwards; a line is given by its baseline.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from finecap.corpus.drawing import degrade
from finecap.corpus.drawing.raster import Box, draw_text, ink_outline, text_width, union
from finecap.records import QA, Region, region

Color = tuple[int, int, int]


@dataclass(frozen=True)
class Style:
    """How text is set: face, size in pixels per em, colour, distance from baseline to baseline in ems."""

    face: str
    size: int
    ink: Color
    leading: float = 1.35

    @property
    def pitch(self) -> int:
        """Distance from baseline to baseline in pixels."""
        return round(self.size * self.leading)


@dataclass(frozen=True)
class Word:
    """A word as it was set: its ink box and what is needed to find its ink again."""

    text: str
    box: Box
    style: Style
    x: int
    baseline: int


@dataclass
class Block:
    """Lines that belong together; `label` is title, paragraph, field, table, ..."""

    label: str
    lines: list[list[Word]] = field(default_factory=list)


class Document(NamedTuple):
    """A document as it was drawn. `kind`: its template, or "typed"; `key`: its source items."""

    kind: str
    image: Image.Image
    regions: list[Region]
    questions: list[QA]
    caption: str
    key: str


class Page:
    """A sheet of paper that collects what is written on it."""

    def __init__(self, size: tuple[int, int], paper: Color) -> None:
        self.image = Image.new("RGB", size, paper)
        self.paper = paper
        self.blocks: list[Block] = []
        self._draw = ImageDraw.Draw(self.image)

    def block(self, label: str) -> Block:
        """Begin a block."""
        self.blocks.append(Block(label))
        return self.blocks[-1]

    def rule(self, box: Box, ink: Color) -> None:
        """A thin filled rectangle."""
        self._draw.rectangle((box[0], box[1], box[2] - 1, box[3] - 1), fill=ink)

    def line(self, block: Block, text: str, style: Style, x: int, baseline: int, right: int | None = None) -> None:
        """Set one line from x on, or ending at `right` if that is given."""
        space = max(text_width(style.face, style.size, " "), 1)
        widths = [text_width(style.face, style.size, word) for word in text.split()]
        left = x if right is None else right - sum(widths) - space * (len(widths) - 1)
        words = []
        for word, width in zip(text.split(), widths, strict=True):
            box = draw_text(self._draw, style.face, style.size, word, left, baseline, style.ink)
            words.append(Word(word, box, style, left, baseline))
            left += width + space
        block.lines.append(words)

    def paragraph(self, label: str, text: str, style: Style, x: int, top: int, width: int, bottom: int) -> int:
        """Set wrapped text below `top` and above `bottom`, as much of it as fits; returns where the next block may
        begin.
        """
        block = self.block(label)
        baseline = top + style.size
        for line in wrap(text, style, width):
            if baseline + style.size // 3 > bottom:
                break
            self.line(block, line, style, x, baseline)
            baseline += style.pitch
        if not block.lines:
            self.blocks.remove(block)
            return top
        return baseline - style.size + style.pitch // 3

    def finish(self, degrees: float) -> tuple[Image.Image, list[Region]]:
        """The picture, turned by some degrees about its centre, and its regions: each block, followed by its lines,
        each followed by its words. Boxes of a turned page are tight around the turned ink; a block with a word outside
        the picture is left out.
        """
        if not degrees:
            return self.image, self._regions({})
        matrix = degrade.rotation(degrees, self.image.size)
        turned = {
            id(word): carried_box(word, matrix) for block in self.blocks for line in block.lines for word in line
        }
        return degrade.rotate(self.image, degrees, self.paper), self._regions(turned)

    def _regions(self, turned: dict[int, Box]) -> list[Region]:
        regions: list[Region] = []
        width, height = self.image.size
        for block in self.blocks:
            boxes = [[turned.get(id(word), word.box) for word in line] for line in block.lines]
            whole = union([box for line in boxes for box in line])
            if whole[0] < 0 or whole[1] < 0 or whole[2] > width or whole[3] > height:
                continue
            texts = [" ".join(word.text for word in line) for line in block.lines]
            if len(block.lines) > 1:
                regions.append(region(whole, "document_text", block.label, text="\n".join(texts)))
            for line, line_boxes, text in zip(block.lines, boxes, texts, strict=True):
                regions.append(region(union(line_boxes), "document_text", "line", text=text))
                regions += [
                    region(box, "document_text", "word", text=word.text)
                    for word, box in zip(line, line_boxes, strict=True)
                ]
        return regions


def wrap(text: str, style: Style, width: int) -> list[str]:
    """Break text into lines of at most `width` pixels; a word that is wider stands alone."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(style.face, style.size, longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def carried_box(word: Word, matrix: degrade.Affine) -> Box:
    """Box around the ink of a word after the matrix has moved it: not the box of the turned box, which would be too
    large.
    """
    outline = ink_outline(word.style.face, word.style.size, word.text)
    points = degrade.carry(outline + np.array([word.x, word.baseline]), matrix)
    low, high = np.floor(points.min(axis=0) + 1e-6), np.ceil(points.max(axis=0) - 1e-6)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])
