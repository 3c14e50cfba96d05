"""What OCR reads inside a box, and how it takes the place of the captioner's reading."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Any

import numpy as np

from finecap.engine.language.likeness import alike, letter_counts
from finecap.engine.language.noun_rules import word_set

# Objects whose point is what is written on them.
TEXT_LABELS = word_set(
    """
    banner billboard caption headline heading inscription label letter lettering letters logo menu newspaper nameplate
    number page paragraph plaque poster receipt script sentence sign signage signboard signpost sticker tag text
    ticker title watermark word words writing
    """
)
# Share of a line or word that must lie in a box to belong to it; share of a box that is text in a text region.
INSIDE = 0.7
MOSTLY_TEXT = 0.5
# A quotation this similar to what OCR reads (1 is equal) is a reading of it.
SAME_READING = 0.5
# Most lines that a quotation may span.
LONGEST_RUN = 6
# Comparing takes time. Most quotations of a caption, characters of a quotation, and runs of lines it is compared with.
MOST_QUOTATIONS, LONGEST_QUOTATION, MOST_COMPARED = 10, 200, 50
_QUOTATION = re.compile(
    r"(?P<open>[\"“«])(?P<text>[^\"“”«»]+)[\"”»]|(?<!\w)(?P<single>['‘])(?P<alone>[^'‘’]+)['’](?!\w)"
)

Box = Sequence[float]


def texts_inside(box: Box, texts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines of OCR that lie in a box, in reading order; of a line that reaches out of it, the words inside.

    Args:
        box: x1, y1, x2, y2 in pixels.
        texts: lines and words of the ocr pass.

    Returns:
        One dict for each line, with its `text` and the `bboxes` of what was taken of it.
    """
    by_line: dict[int, dict[str, Any]] = {}
    for item in texts:
        if share_inside(item["bbox"], box) < INSIDE:
            continue
        entry = by_line.setdefault(item["line"], {"text": "", "bboxes": [], "whole": False})
        if item["level"] == "line":
            entry.update(text=item["text"], bboxes=[item["bbox"]], whole=True)
        elif not entry["whole"]:
            entry["text"] = f"{entry['text']} {item['text']}".strip()
            entry["bboxes"].append(item["bbox"])
    return [by_line[line] for line in sorted(by_line) if by_line[line]["text"].strip()]


def is_text_region(label: str, box: Box, inside: Sequence[dict[str, Any]]) -> bool:
    """Is a box about its text: it has some, and it is called so or most of its area is text?"""
    if not inside:
        return False
    area = sum((x2 - x1) * (y2 - y1) for item in inside for x1, y1, x2, y2 in item["bboxes"])
    return label in TEXT_LABELS or area >= MOSTLY_TEXT * (box[2] - box[0]) * (box[3] - box[1])


def share_inside(inner: Box, outer: Box) -> float:
    """Share of the area of one box that lies in another, 0-1."""
    width = min(inner[2], outer[2]) - max(inner[0], outer[0])
    height = min(inner[3], outer[3]) - max(inner[1], outer[1])
    area = (inner[2] - inner[0]) * (inner[3] - inner[1])
    return max(width, 0) * max(height, 0) / area if area > 0 else 0.0


def with_read_quotations(caption: str, lines: Sequence[str]) -> tuple[str, int]:
    """A caption of a text region with OCR's reading in place of the captioner's (FineViT, step 7 of its pipeline).

    Each quotation becomes the line, or the run of consecutive lines, that is most like it. One that is like none of
    them, one that says nothing and one that is very long stays as it is: for the verify pass to flag, not for us to
    guess.

    Returns:
        The caption and the number of quotations that changed.
    """
    runs = [
        " ".join(lines[start:stop])
        for start in range(len(lines))
        for stop in range(start + 1, min(start + LONGEST_RUN, len(lines)) + 1)
    ]
    folded = [run.casefold() for run in runs]
    counts = letter_counts(folded)
    changed = seen = 0

    def replace(match: re.Match[str]) -> str:
        nonlocal changed, seen
        seen += 1
        quoted = (match["text"] or match["alone"]).strip()
        if not quoted or len(quoted) > LONGEST_QUOTATION or seen > MOST_QUOTATIONS:
            return match[0]
        # Captioners put the comma of their own sentence inside the quotes.
        tail = quoted[-1] if quoted[-1] in ",." else ""
        at = _most_like(quoted.casefold(), folded, counts)
        if at is None or runs[at] == quoted.rstrip(",."):
            return match[0]
        changed += 1
        tail = "" if runs[at].endswith((",", ".")) else tail
        return f"{match[0][0]}{runs[at]}{tail}{match[0][-1]}"

    return _QUOTATION.sub(replace, caption), changed


def _most_like(quoted: str, runs: Sequence[str], counts: np.ndarray) -> int | None:
    """Index of the run that is most like a quotation, the first of equals; None if none is a reading of it."""
    close = alike(quoted, counts, SAME_READING)[:MOST_COMPARED]
    likeness = {at: SequenceMatcher(None, quoted, runs[at], autojunk=False).ratio() for at in sorted(close)}
    best = max(likeness, key=lambda at: likeness[at], default=None)
    return None if best is None or likeness[best] < SAME_READING else best
