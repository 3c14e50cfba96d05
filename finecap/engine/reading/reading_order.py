"""The order in which a person reads the lines of a picture: blocks from top to bottom, columns of running text one
after the other, else row by row and in a row from left to right.

The rule is an XY-cut (Nagy and Seth 1984) with one addition: tables and forms look like columns to a plain XY-cut, so
a gap down the page only parts columns if both sides are running text. For scripts that run from left to right;
vertical writing and lines from right to left come out in this order all the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# A gap between blocks is wider than what lies between the lines of one, in median heights of a line.
BLOCK_GAP = 1.0
# Median length of a line of running text in heights, at least: about 14 letters. Table cells are shorter.
TEXT_LENGTH = 7.0
# Lines of a column, at least.
COLUMN_LINES = 3
# Boxes stand in one row if they share this part of the lower one's height, and do not lie above each other.
ROW_OVERLAP = 0.5


def reading_order(boxes: Sequence[Sequence[float]]) -> list[int]:
    """Indices of the boxes in the order of reading; it does not depend on the order in which they are given, but for
    boxes that are equal.

    Args:
        boxes: of lines, (n, 4) x1, y1, x2, y2 in pixels.
    """
    array = np.asarray(boxes, np.float64).reshape(-1, 4)
    # A total order first: whatever follows then sees the same sequence.
    indices = np.lexsort((array[:, 0], array[:, 1], array[:, 2], array[:, 3]))
    return [int(index) for index in _ordered(array, indices)]


def _ordered(boxes: np.ndarray, group: np.ndarray) -> list[int]:
    if len(group) < 2:
        return list(group)
    height = float(np.median(boxes[group, 3] - boxes[group, 1]))
    blocks = _split(boxes, group, axis=1, gap=BLOCK_GAP * height)
    if len(blocks) > 1:
        return [index for block in blocks for index in _ordered(boxes, block)]
    columns = _split(boxes, group, axis=0, gap=height)
    if len(columns) > 1 and all(_is_running_text(boxes[column]) for column in columns):
        return [index for column in columns for index in _ordered(boxes, column)]
    return [index for row in _rows(boxes, group) for index in row]


def _split(boxes: np.ndarray, group: np.ndarray, axis: int, gap: float) -> list[np.ndarray]:
    """Parts of a group between which a stripe of at least `gap` pixels is free; axis 0 splits left from right."""
    group = group[np.argsort(boxes[group, axis], kind="stable")]
    ends = np.maximum.accumulate(boxes[group, axis + 2])
    cuts = np.flatnonzero(boxes[group[1:], axis] - ends[:-1] >= gap) + 1
    return np.split(group, cuts)


def _is_running_text(boxes: np.ndarray) -> bool:
    widths, heights = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    return len(boxes) >= COLUMN_LINES and bool(np.median(widths) >= TEXT_LENGTH * np.median(heights))


def _rows(boxes: np.ndarray, group: np.ndarray) -> list[list[int]]:
    """Rows from top to bottom, each from left to right."""
    middles = (boxes[group, 1] + boxes[group, 3]) / 2
    rows: list[list[int]] = []
    for index in group[np.argsort(middles, kind="stable")]:
        if rows and _stands_in(boxes[index], boxes[rows[-1]]):
            rows[-1].append(int(index))
        else:
            rows.append([int(index)])
    return [sorted(row, key=lambda index: tuple(boxes[index])) for row in rows]


def _stands_in(box: np.ndarray, row: np.ndarray) -> bool:
    """Does a box stand beside those of a row, not below one of them?"""
    top, bottom = row[:, 1].mean(), row[:, 3].mean()
    shared = min(box[3], bottom) - max(box[1], top)
    across = np.minimum(box[2], row[:, 2]) - np.maximum(box[0], row[:, 0])
    narrower = np.minimum(box[2] - box[0], row[:, 2] - row[:, 0])
    return bool(shared >= ROW_OVERLAP * min(box[3] - box[1], bottom - top) and (across <= narrower / 2).all())
