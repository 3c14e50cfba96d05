"""Where things are in a picture, in words. `size` is the picture's width and height; all lengths are pixels."""

from __future__ import annotations

from collections.abc import Sequence

ROWS = ("top", "middle", "bottom")
COLUMNS = ("left", "center", "right")


def cell(x: float, y: float, size: tuple[int, int]) -> tuple[str, str]:
    """The third of the picture, down and across, in which a point lies."""
    return ROWS[min(int(3 * y / size[1]), 2)], COLUMNS[min(int(3 * x / size[0]), 2)]


def place_words(x: float, y: float, size: tuple[int, int]) -> str:
    """The cell in words: "top left", "center", "bottom"."""
    row, column = cell(x, y, size)
    if row == "middle":
        return column
    return row if column == "center" else f"{row} {column}"


def span(noun: str, box: Sequence[float], size: tuple[int, int]) -> str:
    """How far a box (x1, y1, x2, y2) reaches, in a sentence; in whole per cent of the picture's sides."""
    x1, x2 = (round(100 * value / size[0]) for value in box[::2])
    y1, y2 = (round(100 * value / size[1]) for value in box[1::2])
    return f"The {noun} spans {x1} to {x2} percent across and {y1} to {y2} percent down."
