"""Boxes in pixels, and as the numbers that models read and write: the only place where such numbers exist.

Pixels are `(x1, y1, x2, y2)` with the origin at the top left. Which numbers a model uses for a box is its `Notation`.
FineViT-VL's text form is Qwen2-VL's, `<|box_start|>(x1,y1),(x2,y2)<|box_end|>`, whose tokens are in the Qwen
vocabulary, on a grid of 1000 steps a side (the FineViT paper, Stage III, leaves the notation open).
"""

import json
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

BOX_START_TOKEN = "<|box_start|>"
BOX_END_TOKEN = "<|box_end|>"
OBJECT_REF_START_TOKEN = "<|object_ref_start|>"
OBJECT_REF_END_TOKEN = "<|object_ref_end|>"

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Notation:
    """Which numbers a model reads and writes for a box.

    Attributes:
        steps: of the grid that lies over each side of a picture, whatever its size; None for a model that counts the
            pixels of the picture that it is shown.
    """

    steps: int | None

    def grid(self, width: int, height: int) -> tuple[int, int]:
        """Steps over the two sides of a picture of this size."""
        return (width, height) if self.steps is None else (self.steps, self.steps)


# FineViT-VL's own grid has a name of its own: a change of it must not reach the models of others.
FINEVIT = Notation(1000)
BoxFormat = Literal["thousandths", "pixels", "finevit"]
NOTATIONS: dict[BoxFormat, Notation] = {
    "thousandths": Notation(1000),  # Qwen3-VL
    "pixels": Notation(None),  # Qwen2.5-VL
    "finevit": FINEVIT,
}


class ParsedBox(NamedTuple):
    """A box that was read: pixels, and the name that the text gives it, if any."""

    box: Box
    label: str | None


class SkippedBox(NamedTuple):
    """Text that looks like a box but is none, and why."""

    text: str
    reason: str


class ParsedBoxes(NamedTuple):
    """`boxes` in the order of the text, and what was `skipped`."""

    boxes: list[ParsedBox]
    skipped: list[SkippedBox]


def format_box(box: Sequence[float], width: int, height: int, notation: Notation = FINEVIT) -> str:
    """Write a box the canonical way; no side moves by more than half a step of the notation's grid.

    Args:
        box: `x1, y1, x2, y2` in pixels.
        width: of the picture, in pixels.
        height: of the picture, in pixels.
        notation: FineViT-VL's, but for experiments with another grid.

    Raises:
        ValueError: as of `box_numbers`.
    """
    left, top, right, bottom = box_numbers(box, width, height, notation)
    return f"{BOX_START_TOKEN}({left},{top}),({right},{bottom}){BOX_END_TOKEN}"


def box_numbers(box: Sequence[float], width: int, height: int, notation: Notation) -> tuple[int, int, int, int]:
    """The numbers of a box in a model's notation: left, top, right, bottom.

    Args:
        box: `x1, y1, x2, y2` in pixels.
        width: of the picture that the model is shown, in pixels.
        height: of the picture that the model is shown, in pixels.
        notation: of the model.

    Raises:
        ValueError: the box is not four finite numbers, is empty or turned round, leaves the picture, or is thinner
            than the steps of the grid can tell apart.
    """
    _check_picture(width, height)
    x1, y1, x2, y2 = _check_box(box, width, height)
    columns, rows = notation.grid(width, height)
    left, right = round(x1 / width * columns), round(x2 / width * columns)
    top, bottom = round(y1 / height * rows), round(y2 / height * rows)
    if left == right or top == bottom:
        raise ValueError(
            f"Box {tuple(box)} is too thin for a {width}x{height} picture: both edges fall on the same of the "
            f"{columns if left == right else rows} steps a side. Leave it out, or cut the picture so that the box is "
            "larger in it."
        )
    return left, top, right, bottom


def clip_box(box: Sequence[float], width: float, height: float) -> Box:
    """The part of a box that lies in the picture; without area if none does.

    Args:
        box: `x1, y1, x2, y2` in pixels, finite.
        width: of the picture, in pixels.
        height: of the picture, in pixels.
    """
    x1, y1, x2, y2 = (min(max(float(side), 0.0), limit) for side, limit in zip(box, (width, height) * 2, strict=True))
    return x1, y1, x2, y2


def _check_picture(width: int, height: int) -> None:
    if width <= 0 or height <= 0:
        raise ValueError(f"A picture of {width}x{height} pixels has no area: pass its width and height in pixels.")


def _check_box(box: Sequence[float], width: int, height: int) -> Box:
    if len(box) != 4 or not all(math.isfinite(side) for side in box):
        raise ValueError(f"Box {box!r} is not four finite numbers: expected x1, y1, x2, y2 in pixels.")
    x1, y1, x2, y2 = (float(side) for side in box)
    if x1 >= x2 or y1 >= y2:
        raise ValueError(f"Box {tuple(box)} is empty: expected x1 < x2 and y1 < y2 in pixels.")
    if x1 < 0 or y1 < 0 or x2 > width or y2 > height:
        raise ValueError(f"Box {tuple(box)} leaves the {width}x{height} picture: cut it to the picture first.")
    return x1, y1, x2, y2


_NUMBER = r"([-+]?(?:\d+(?:\.\d*)?|\.\d+))"
_COMMA = r"\s*,\s*"
_REF = rf"(?:{re.escape(OBJECT_REF_START_TOKEN)}(?P<ref>[^<]*){re.escape(OBJECT_REF_END_TOKEN)}\s*)?"
_START = rf"(?P<start>{re.escape(BOX_START_TOKEN)}\s*)?"
_PAIRS = rf"\(\s*{_NUMBER}{_COMMA}{_NUMBER}\s*\)\s*,?\s*\(\s*{_NUMBER}{_COMMA}{_NUMBER}\s*\)"
_QUAD = rf"[\[(]\s*{_NUMBER}{_COMMA}{_NUMBER}{_COMMA}{_NUMBER}{_COMMA}{_NUMBER}\s*[\])]"
_BOX_PATTERN = re.compile(rf"{_REF}{_START}(?:{_PAIRS}|{_QUAD})")
# Announces a box; where none follows, the writer meant one and failed.
_ANNOUNCEMENT = re.compile(rf"{re.escape(BOX_START_TOKEN)}[^<\n]*|\"bbox(?:_2d)?\"\s*:\s*(?:\[[^\]\n}}]*\]?)?")
_NOWHERE = (sys.maxsize, sys.maxsize)
# A box and its label are no further apart: an answer full of boxes and one open quotation mark would be searched anew
# for each of them.
_LONGEST_LABEL = 1000
_JSON_LABEL = re.compile(r'"label"\s*:\s*("(?:[^"\\]|\\.)*")')


def parse_boxes(text: str, width: int, height: int, notation: Notation = FINEVIT) -> ParsedBoxes:
    """Read every box in a model's answer.

    Three forms are read:

    - the canonical one, with or without its special tokens, also behind `<|object_ref_start|>name<|object_ref_end|>`;
    - JSON `{"bbox_2d": [x1, y1, x2, y2], "label": ...}` (also `bbox`; fenced, listed or cut off);
    - bare `[x1, y1, x2, y2]` or `(x1, y1, x2, y2)`.

    The numbers are the notation's. Four numbers up to 1, a decimal point among them, are fractions of the picture.

    Args:
        text: what the model wrote.
        width: of the picture that the model was shown, in pixels.
        height: of the picture that the model was shown, in pixels.
        notation: of the model.

    Returns:
        Boxes in pixels of that picture, in the order of the text, and what was skipped: coordinates out of range,
        empty boxes, and announced boxes (`<|box_start|>` or a `bbox_2d` key) without four numbers.
    """
    _check_picture(width, height)
    grid = notation.grid(width, height)
    boxes: list[ParsedBox] = []
    skipped: list[SkippedBox] = []
    spans = []
    for match in _BOX_PATTERN.finditer(text):
        spans.append(match.span())
        numbers = [group for group in match.groups()[2:] if group is not None]
        sides = _as_fractions(numbers, grid)
        reason = _reason_to_skip(sides, grid)
        if reason is not None:
            skipped.append(SkippedBox(match.group().strip(), reason))
            continue
        x1, y1, x2, y2 = sides
        label = match["ref"].strip() if match["ref"] is not None else _json_label(text, *match.span())
        boxes.append(ParsedBox((x1 * width, y1 * height, x2 * width, y2 * height), label))
    waiting = iter(spans)
    start, end = next(waiting, _NOWHERE)
    for match in _ANNOUNCEMENT.finditer(text):
        while end <= match.start():  # both go through the text from left to right
            start, end = next(waiting, _NOWHERE)
        if match.end() < start:
            skipped.append(SkippedBox(match.group().strip(), "no four numbers x1, y1, x2, y2 follow"))
    return ParsedBoxes(boxes, skipped)


def _as_fractions(numbers: list[str], grid: tuple[int, int]) -> list[float]:
    sides = [float(number) for number in numbers]
    are_fractions = any("." in number for number in numbers) and all(abs(side) <= 1 for side in sides)
    return sides if are_fractions else [side / steps for side, steps in zip(sides, grid * 2, strict=True)]


def _reason_to_skip(sides: list[float], grid: tuple[int, int]) -> str | None:
    x1, y1, x2, y2 = sides
    if min(sides) < 0 or max(sides) > 1:
        return f"outside the picture: a coordinate is not within 0 to {grid[0]} across and 0 to {grid[1]} down"
    if x1 >= x2 or y1 >= y2:
        return "empty: expected x1 < x2 and y1 < y2"
    return None


def _json_label(text: str, start: int, end: int) -> str | None:
    """The `label` of the JSON object around `text[start:end]`; the object may be cut off at the end of the text."""
    limit = min(end + _LONGEST_LABEL, len(text))
    opening = text.rfind("{", max(0, start - _LONGEST_LABEL), start)
    if opening < 0 or "}" in text[opening:start]:
        return None
    closing = text.find("}", end, limit)
    match = _JSON_LABEL.search(text, opening, closing if closing >= 0 else limit)
    if match is None:
        return None
    try:
        return json.loads(match[1])
    except ValueError:
        return match[1].strip('"')


def box_ious(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Intersection over union of one box with others.

    Args:
        box: (4,) x1, y1, x2, y2 in pixels, with area.
        boxes: (n, 4), likewise.

    Returns:
        (n,) float64 in 0-1.
    """
    box, boxes = np.asarray(box, np.float64), np.asarray(boxes, np.float64).reshape(-1, 4)
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    shared = sides.clip(min=0).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return shared / ((box[2:] - box[:2]).prod() + areas - shared)
