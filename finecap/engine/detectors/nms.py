"""Non-maximum suppression, without torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from finecap.boxes import box_ious


def class_aware_nms(boxes: np.ndarray, scores: Sequence[float], labels: Sequence[str], max_iou: float) -> list[int]:
    """Greedy non-maximum suppression within each label: a box goes if a better one of its label overlaps it by more
    than `max_iou`; of equal scores the earlier is the better (`torchvision.ops.batched_nms`, which sorts stably too).

    Args:
        boxes: (n, 4) x1, y1, x2, y2 in pixels, each with area.
        scores: n of them.
        labels: n of them.

    Returns:
        Indices of the boxes that stay, best first.
    """
    boxes, names = np.asarray(boxes, np.float64).reshape(-1, 4), np.asarray(labels, dtype=object)
    waiting = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    kept: list[int] = []
    while waiting.size:
        best, waiting = waiting[0], waiting[1:]
        kept.append(int(best))
        beaten = (names[waiting] == names[best]) & (box_ious(boxes[best], boxes[waiting]) > max_iou)
        waiting = waiting[~beaten]
    return kept
