"""What the pixels and the text in and at a box say about its caption. No model that writes captions has a say here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from finecap.boxes import box_ious
from finecap.engine.language.colour_words import colours_said
from finecap.engine.language.text_checks import Written, contradicted_numbers, contradicted_quotes
from finecap.engine.reading.bars import bar_at, is_called_bar, judge_bar
from finecap.engine.reading.colours import SAME_PAINT, has_colour, oklab
from finecap.engine.reading.text_regions import texts_inside
from finecap.verdicts import REFUTED, Verdict

# A thing has a colour if so much of it may be called so, its background aside: a red bus has windows.
COLOUR_SHARE = 0.05
# The edge of a box is a background if so much of it is of one paint; with less than so much of the box left beside
# it, there is nothing to judge.
PLAIN, LITTLE = 0.6, 0.05
# Most rows and columns of pixels that are looked at; larger things are sampled.
SAMPLE_SIDE = 96
_DIGIT = re.compile(r"\d")

Box = Sequence[float]


def judge_caption(
    caption: str, label: str, box: Box, image: Image.Image, texts: Sequence[dict[str, Any]], min_iou: float
) -> tuple[Verdict | None, str | None]:
    """Verified or refuted, and why; None where pixels and text decide nothing, as for most things but bars.

    Args:
        caption: of the box.
        label: what the thing is called.
        box: x1, y1, x2, y2 in pixels; nothing is said of one without a pixel inside the picture.
        image: RGB, the whole picture.
        texts: lines and words of the ocr pass, of the whole picture.
        min_iou: a caption is verified only if its box hits the bar, as the pixels have it, at least so well.
    """
    inside = np.clip(box, 0, [*image.size, *image.size])
    if not (inside[2:] - inside[:2] >= 1).all():
        return None, None
    box = inside.tolist()
    bar = bar_at(image, box) if is_called_bar(label) else None
    if bar is not None:
        judgement, reason = judge_bar(caption, label, bar, texts)
        on_it = box_ious(inside, np.array(bar.box))[0] >= min_iou
        if judgement is not None and (judgement == REFUTED or on_it):
            return judgement, reason
    elif is_other_colour(caption, label, box, image):
        return REFUTED, "colour"
    return (REFUTED, "reading") if reads_otherwise(caption, box, texts) else (None, None)


def is_other_colour(caption: str, label: str, box: Box, image: Image.Image) -> bool:
    """Does a caption give the thing in a box a colour of which the box has next to nothing?

    Of several colours ("a red and white bus") one must be there.
    """
    said = colours_said(caption, label)
    if not said:
        return False
    x1, y1, x2, y2 = (round(value) for value in box)
    crop = image.crop((x1, y1, max(x2, x1 + 1), max(y2, y1 + 1)))
    sides = (min(crop.width, SAMPLE_SIDE), min(crop.height, SAMPLE_SIDE))
    thing = _without_background(oklab(np.asarray(crop.resize(sides, Image.Resampling.NEAREST))))
    return len(thing) > 0 and not any(has_colour(thing, name).mean() >= COLOUR_SHARE for name in said)


def _without_background(lab: np.ndarray) -> np.ndarray:
    """(n, 3): the pixels of a crop that are not of the one paint of its edge; all if its edge has many."""
    pixels = lab.reshape(-1, 3)
    edge = np.concatenate([lab[0], lab[-1], lab[:, 0], lab[:, -1]])
    ground = np.median(edge, axis=0)
    if (np.linalg.norm(edge - ground, axis=1) <= SAME_PAINT).mean() < PLAIN:
        return pixels
    thing = pixels[np.linalg.norm(pixels - ground, axis=1) > SAME_PAINT]
    return thing if len(thing) >= LITTLE * len(pixels) else pixels


def reads_otherwise(caption: str, box: Box, texts: Sequence[dict[str, Any]]) -> bool:
    """Does a caption read a number or a quote that stands nowhere in the picture, while its box holds other numbers
    or words?
    """
    inside = [item["text"] for item in texts_inside(box, texts)]
    if not inside:
        return False
    everywhere = Written.of([item["text"] for item in texts if item["level"] == "line"])
    numbers = any(map(_DIGIT.search, inside)) and contradicted_numbers(caption, everywhere)
    return bool(numbers or contradicted_quotes(caption, everywhere))
