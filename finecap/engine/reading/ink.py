"""Boxes tight around the ink of a line and of its words, from the loose ones that a reading model gives.

Measured against the exact boxes of the embedded corpus by benchmarks/engine/quality.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import cv2
import numpy as np

Box = tuple[int, int, int, int]
# Ink differs from the paper by at least this part of the largest difference within the line.
INK = 0.3
# What spans so much of a line's box and is at most so high is a ruled line and not a letter; so is what is thin, in
# parts of the height, and reaches the edge: boxes have a margin.
RULE_LENGTH, RULE_HEIGHT, RULE_WIDTH = 0.8, 0.4, 0.2
# What a line's box has around the ink at most, in parts of its shorter side; 0.48 in 630 lines of the embedded corpus.
MOST_MARGIN = 0.6


def ink_mask(crop: np.ndarray, quad: np.ndarray) -> np.ndarray:
    """Which pixels of a line are ink: they differ from the median colour, lie in the line's quadrangle and belong to
    no ruled line.

    Args:
        crop: (h, w, 3) uint8.
        quad: (4, 2) corners x, y of the line in pixels of the crop.

    Returns:
        (h, w) bool. Where nothing but ruled lines is found (a dash), they are the ink.
    """
    colors = crop.astype(np.int16)
    difference = np.abs(colors - np.median(colors.reshape(-1, 3), axis=0)).max(axis=2)
    inside = cv2.fillConvexPoly(np.zeros(difference.shape, np.uint8), np.round(quad).astype(np.int32), 1)
    ink = (difference >= INK * max(difference.max(), 1)) & inside.astype(bool)
    count, parts, figures, _ = cv2.connectedComponentsWithStats(ink.astype(np.uint8), connectivity=8)
    wide, high = figures[:, cv2.CC_STAT_WIDTH], figures[:, cv2.CC_STAT_HEIGHT]
    height, width = ink.shape
    core = cv2.erode(inside, np.ones((3, 3), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0)
    at_edge = np.isin(np.arange(count), parts[core == 0])
    ruled = (wide >= RULE_LENGTH * width) & (high <= RULE_HEIGHT * height)
    ruled |= at_edge & (np.minimum(wide, high) <= RULE_WIDTH * height)
    ruled[0] = True  # part 0 is the paper
    letters = ~ruled[parts]
    return letters if letters.any() else ink


def tight(ink: np.ndarray, box: Box) -> Box:
    """The part of a box that holds ink; the box itself if there is none.

    Args:
        ink: (h, w) bool, of the box.
        box: in whole pixels of the picture.
    """
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    if not len(rows):
        return box
    x, y = box[:2]
    return x + int(columns[0]), y + int(rows[0]), x + int(columns[-1]) + 1, y + int(rows[-1]) + 1


def is_likely(inner: Box, box: Box) -> bool:
    """Can this be all the ink of a line? Not if it leaves much of the box empty: then the median colour is not that of
    the paper, as on a photograph of two colours.
    """
    margins = (inner[0] - box[0], inner[1] - box[1], box[2] - inner[2], box[3] - inner[3])
    return max(margins) <= MOST_MARGIN * min(box[2] - box[0], box[3] - box[1])


def words_in_ink(ink: np.ndarray, box: Box, words: Sequence[Box]) -> list[Box]:
    """Tight boxes of the words of a line: it is cut in the widest gap of ink between the middles of two neighbours.

    Args:
        ink: (h, w) bool, of the line's box; a line that is higher than wide runs up or down.
        box: of the line, in whole pixels of the picture.
        words: their loose boxes as they follow each other.

    Returns:
        As many boxes, in the same order; the loose ones if the line cannot be cut between them.
    """
    if ink.shape[0] > ink.shape[1]:
        return [_swapped(word) for word in words_in_ink(ink.T, _swapped(box), [_swapped(word) for word in words])]
    if words and words[0] > words[-1]:
        return words_in_ink(ink, box, words[::-1])[::-1]
    empty = np.logical_not(ink.any(axis=0))
    spans = [(left - box[0], right - box[0]) for left, _, right, _ in words]
    edges = [0, *(_cut(empty, one, other) for one, other in pairwise(spans)), ink.shape[1]]
    if not words or any(start >= end for start, end in pairwise(edges)):
        return list(words)
    return [tight(ink[:, start:end], (box[0] + start, box[1], box[0] + end, box[3])) for start, end in pairwise(edges)]


def _swapped(box: Box) -> Box:
    """With rows for columns."""
    return box[1], box[0], box[3], box[2]


def _cut(empty: np.ndarray, one: tuple[int, int], other: tuple[int, int]) -> int:
    """Where to cut between two neighbours (left, right); `empty` says which columns have no ink."""
    start, end = -(-sum(one) // 2), min(-(-sum(other) // 2), len(empty))
    middle = (one[1] + other[0]) / 2
    steps = np.flatnonzero(np.diff(np.concatenate([[0], empty[start:end].astype(np.int8), [0]])))
    gaps = [
        (right - left, -abs(start + (left + right) / 2 - middle), start + (left + right) // 2)
        for left, right in zip(steps[::2], steps[1::2], strict=True)
    ]
    return int(max(gaps)[2]) if gaps else round(middle)
