"""The bars of charts: where a bar really ends, what colour it has, and what is written at its ends.

A bar is the one thing whose caption ("the gray bar for Sep, 75") can be checked whole without another model: its
colour and its edges are in the pixels, and its name and its value are text, which OCR reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from difflib import SequenceMatcher
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from finecap.engine.language.colour_words import colour_of, colours_said
from finecap.engine.language.noun_rules import word_set
from finecap.engine.language.text_checks import Written, contradicted_numbers, readings, words_of
from finecap.engine.reading.colours import SAME_PAINT, has_colour, is_called, oklab
from finecap.verdicts import REFUTED, VERIFIED, Verdict

# A bar is a rectangle of one paint: so much of each edge and of the whole.
FULL_EDGE, FULL = 0.6, 0.85
# Pixels: smaller ones are not looked at, and the surroundings of large ones are shrunk to this longer side.
SMALLEST, WINDOW_SIDE = 2, 512
# Greatest distance of a text from the end of the bar that it belongs to, in heights of the text.
REACH = 2.0
# Greatest distance of its middle from the side of the bar, in heights; and its greatest width, in widths of the bar
# and a height together: what is wider is a title, or the names of several bars in one line.
ASIDE, WIDEST = 0.25, 2.0
# The nearest row of text at an end counts: other rows begin more than this many heights behind it.
SAME_ROW = 0.5
# Words of a bar's caption that say nothing to be checked. Upper case is read: "A" may be a bar's name.
FILLERS = word_set("a an the for of in at with and is bar column chart value labelled")
# What reading models confuse in small print.
_CONFUSED = str.maketrans({"0": "o", "1": "l", "i": "l", "|": "l", "5": "s", "8": "b"})
ALIKE = 0.5

Box = Sequence[float]


class Bar(NamedTuple):
    """A rectangle of one paint: `box` in pixels, x2 and y2 exclusive; `paint` (3,) in OKLab."""

    box: tuple[int, int, int, int]
    paint: np.ndarray


def is_called_bar(label: str) -> bool:
    """Is the thing called a bar? Whether it is one of a chart, `bar_at` sees."""
    return label.casefold().split()[-1:] in (["bar"], ["column"])


def bar_at(image: Image.Image, box: Box) -> Bar | None:
    """The bar that a box is on, as the pixels have it; the box may be too large, too small or shifted.

    Args:
        image: RGB, the whole picture.
        box: x1, y1, x2, y2 in pixels, inside the picture.

    Returns:
        None if the middle of the box is no rectangle of one paint, or one that reaches as far as was looked.
    """
    x1, y1, x2, y2 = box
    left, top = max(int(x1 - (x2 - x1)), 0), max(int(y1 - (y2 - y1)), 0)
    right, bottom = min(int(2 * x2 - x1) + 1, image.width), min(int(2 * y2 - y1) + 1, image.height)
    window = image.crop((left, top, right, bottom))
    shrink = max(1, -(-max(window.size) // WINDOW_SIDE))
    window = window.resize((-(-window.width // shrink), -(-window.height // shrink)), Image.Resampling.NEAREST)
    lab = oklab(np.asarray(window))
    u1, v1, u2, v2 = (int((value - origin) / shrink) for value, origin in zip(box, (left, top) * 2, strict=True))
    if u2 - u1 < SMALLEST or v2 - v1 < SMALLEST:
        return None
    across, down = (u2 - u1) // 4, (v2 - v1) // 4
    paint = np.median(lab[v1 + down : v2 - down, u1 + across : u2 - across].reshape(-1, 3), axis=0)
    mask = np.linalg.norm(lab - paint, axis=-1) <= SAME_PAINT
    edges = _edges(mask, (u1, v1, u2, v2))
    if edges is None or edges == (0, 0, window.width, window.height):
        return None
    u1, v1, u2, v2 = edges
    if mask[v1:v2, u1:u2].mean() < FULL:
        return None
    return Bar((left + u1 * shrink, top + v1 * shrink, left + u2 * shrink, top + v2 * shrink), paint)


def _edges(mask: np.ndarray, start: tuple[int, int, int, int]) -> tuple[int, int, int, int] | None:
    """Moves each edge of a rectangle outwards over lines that are mostly set, inwards over those that are not."""
    x1, y1, x2, y2 = start
    for _ in range(4):
        before = (x1, y1, x2, y2)
        rows = mask[:, x1:x2].mean(axis=1) >= FULL_EDGE
        y1, y2 = _run(rows, y1, y2)
        if y1 >= y2:
            return None
        columns = mask[y1:y2].mean(axis=0) >= FULL_EDGE
        x1, x2 = _run(columns, x1, x2)
        if x1 >= x2:
            return None
        if (x1, y1, x2, y2) == before:
            break
    return x1, y1, x2, y2


def _run(lines: np.ndarray, start: int, stop: int) -> tuple[int, int]:
    """The longest run of set lines between two places, and as far as it goes beyond them."""
    best, place = (0, 0), start
    while place < stop:
        end = place
        while end < stop and lines[end]:
            end += 1
        best = max(best, (place, end), key=lambda run: run[1] - run[0])
        place = end + 1
    low, high = best
    if low < high:
        while low > 0 and lines[low - 1]:
            low -= 1
        while high < len(lines) and lines[high]:
            high += 1
    return low, high


def texts_at_ends(bar: Box, texts: Sequence[dict[str, Any]]) -> tuple[list[str], list[str]]:
    """What is written at the lower and upper end of a bar (and on it), and what at its left and right end.

    Args:
        bar: x1, y1, x2, y2 in pixels.
        texts: lines and words of the ocr pass.
    """
    standing = _at_ends(bar, [(item["bbox"], item["text"]) for item in texts])
    turned = [bar[1], bar[0], bar[3], bar[2]]
    lying = _at_ends(turned, [([b[1], b[0], b[3], b[2]], item["text"]) for item in texts for b in [item["bbox"]]])
    return standing, lying


def _at_ends(bar: Box, texts: Sequence[tuple[Box, str]]) -> list[str]:
    """For a bar that stands: texts in the same column that lie on it, or next above or below it."""
    x1, y1, x2, y2 = bar
    inside, above, below = [], [], []
    for (a1, b1, a2, b2), text in texts:
        size = min(a2 - a1, b2 - b1)
        slack = ASIDE * size
        if not x1 - slack <= (a1 + a2) / 2 <= x2 + slack or a2 - a1 > WIDEST * (x2 - x1 + size):
            continue
        middle = (b1 + b2) / 2
        if y1 < middle < y2:
            inside.append(text)
        elif middle <= y1 and y1 - b2 <= REACH * size:
            above.append((y1 - b2, size, text))
        elif middle >= y2 and b1 - y2 <= REACH * size:
            below.append((b1 - y2, size, text))
    return [*inside, *_nearest_row(above), *_nearest_row(below)]


def _nearest_row(found: Sequence[tuple[float, float, str]]) -> list[str]:
    nearest = min((gap for gap, _, _ in found), default=0.0)
    return [text for gap, size, text in found if gap <= nearest + SAME_ROW * size]


def judge_bar(
    caption: str, label: str, bar: Bar, texts: Sequence[dict[str, Any]]
) -> tuple[Verdict | None, str | None]:
    """Does a caption say what a bar looks like and what is written at its ends?

    It is verified if the paint has the colour it says, and all else that it says, one name or number at least, is
    written at the bar's ends. It is refuted if the paint clearly has another colour, if another number than it says
    is written there, or if a name that it says is written elsewhere while another one is written there.

    Args:
        texts: lines and words of the ocr pass, of the whole picture.
    """
    said = colours_said(caption, label)
    if any(not has_colour(bar.paint, name) for name in said):
        return REFUTED, "colour"
    names, numbers = _names(caption), readings(caption)
    ends = max(
        texts_at_ends(bar.box, texts),
        key=lambda there: (-len(_unread(names, numbers, caption, there)), len(there)),
    )
    unread = _unread(names, numbers, caption, ends)
    if not unread:
        everywhere = [name for word in words_of(caption) if (name := colour_of(word))]
        sure = bool(names or numbers) and all(is_called(bar.paint, name) for name in everywhere)
        return (VERIFIED, "read at the bar") if sure else (None, None)
    there = {word for text in ends for word in words_of(text)}
    if any(token in numbers for token in unread) and _another_number(numbers, caption, ends):
        return REFUTED, "number"
    elsewhere = {_folded(word) for item in texts for word in words_of(item["text"])} - set(map(_folded, there))
    wrong = [name for name in unread if name in names and _folded(name) in elsewhere]
    free = [word for word in there if not word.isdigit() and not _is_any_of(word, names)]
    return (REFUTED, "name") if wrong and free else (None, None)


def _names(caption: str) -> list[str]:
    """The words of a caption that must be written at its bar: all but fillers, colours and numbers."""
    first, *rest = caption.split() or [""]
    tokens = [first.lower(), *rest]
    numbers = {word for token in readings(caption) for word in words_of(token)}
    return [
        word
        for token in tokens
        if token.strip(".,:;\"'“”") not in FILLERS and not colour_of(token.strip(".,:;\"'“”"))
        for word in words_of(token)
        if word not in numbers
    ]


def _unread(names: Sequence[str], numbers: Sequence[str], caption: str, ends: Sequence[str]) -> list[str]:
    there = {_folded(word) for text in ends for word in words_of(text)}
    missing = [name for name in names if _folded(name) not in there]
    # What is written at one bar is no axis, on which values could be read that are not written.
    return missing + contradicted_numbers(caption, replace(Written.of(ends), axes=()))


def _another_number(numbers: Sequence[str], caption: str, ends: Sequence[str]) -> bool:
    """Is a number written at the bar that the caption does not say?"""
    said = Written.of(numbers)
    written = [text for text in ends if readings(text)]
    return any(contradicted_numbers(text, said) for text in written)


def _folded(word: str) -> str:
    return word.casefold().translate(_CONFUSED)


def _is_any_of(word: str, names: Sequence[str]) -> bool:
    return any(SequenceMatcher(None, _folded(word), _folded(name)).ratio() >= ALIKE for name in names)
