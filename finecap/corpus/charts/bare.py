"""Bars without axes on a grid of character cells, for the smallest level.

Labels and values are typed in the cells on which nano documents are typed (`finecap.corpus.documents.typed.typewrite`)
and with the same glyphs, so that what a tiny model learns of reading in one serves the other. Drawn without
matplotlib: twenty times faster, and every box is known as it is drawn.
"""

from __future__ import annotations

import random

from PIL import Image, ImageDraw

from finecap.corpus.charts.draw import Part
from finecap.corpus.charts.spec import COLORS, ChartSpec, number
from finecap.corpus.drawing.raster import draw_text

FACE = "mono-bold"
INK = (16, 16, 16)


def draw_bare_bars(
    rng: random.Random, spec: ChartSpec, size: tuple[int, int], font_size: int, cell: int
) -> tuple[Image.Image, list[Part]]:
    """One bar in each slot of four cells, its label in the bottom row and its value in the lowest free cell row above
    it.

    Everything is off the grid by two pixels at most. Slots are spread over the picture when there are fewer bars than
    slots.
    """
    width, height = size
    image = Image.new("RGB", size, (255, 255, 255))
    draw = ImageDraw.Draw(image)
    values = next(iter(spec.series.values()))
    slots = sorted(rng.sample(range(width // (4 * cell)), len(values)))
    line = 2 * cell
    floor, ceiling = height - line, line
    parts: list[Part] = []
    for row, (slot, value) in enumerate(zip(slots, values, strict=True)):
        left = slot * 4 * cell + rng.randint(0, 2)
        top = floor - max(round(value / max(values) * (floor - ceiling)), 2)
        draw.rectangle((left, top, left + 3 * cell - 1, floor - 1), fill=COLORS[spec.color_of(0, row)])
        parts.append(Part("bar", (left, top, left + 3 * cell, floor), None, row, 0))
        shift = font_size - 2 + rng.randint(0, 2)
        above = (top - line) // cell * cell + shift
        written = number(value)
        box = draw_text(draw, FACE, font_size, written, left, above, INK)
        parts.append(Part("value", box, written, row, 0))
        box = draw_text(draw, FACE, font_size, spec.rows[row], left, floor + shift, INK)
        parts.append(Part("tick", box, spec.rows[row], row))
    return image, parts
