"""How what lmms-eval finds out about one answer becomes a sample of this project."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from finecap.boxes import box_ious
from finevit_eval.questions.boxes import pixel_boxes

Fields = dict[str, Any]
HIT_FROM = 0.5
"""Overlap (IoU) from which a box counts as found."""


@dataclass(frozen=True)
class Scoring:
    """Where the scores of a task of lmms-eval stand, and how they are read.

    Attributes:
        key: Its headline metric.
        of_one: The score of one question (0-1), from what the task's `process_results` gives under `key`.
        others: Name -> lmms-eval's name of a further metric. One that lmms-eval leaves out, since no question belongs
            to it, is left out.
        question: Column with what a person would ask.
        boxes: Are the answers boxes?
        out_of: By how many questions lmms-eval divides, however many were asked; None where it divides by those.
    """

    key: str
    of_one: Callable[[Any], float] = float
    others: Mapping[str, str] = field(default_factory=dict)
    question: str = "question"
    boxes: bool = False
    out_of: int | None = None

    def headline(self, scores: Mapping[str, Any], asked: int) -> float:
        """The score of a task, 0-1, from lmms-eval's results and the number of questions."""
        score = float(scores[f"{self.key},none"])
        return score if self.out_of is None else score * self.out_of / asked

    def further(self, scores: Mapping[str, Any]) -> dict[str, float]:
        """The other scores of a task from lmms-eval's results."""
        found = {other: scores.get(f"{key},none") for other, key in self.others.items()}
        return {other: float(score) for other, score in found.items() if score is not None}


def box_scoring(prefix: str, question: str, thresholds: Sequence[float] = ()) -> Scoring:
    """Of tasks whose metrics are `<prefix>_IoU`, `<prefix>_ACC@0.5`, ...; accuracy at 0.5 is the headline."""
    at = {f"acc@{threshold}": f"{prefix}_ACC@{threshold}" for threshold in thresholds}
    others = {"iou": f"{prefix}_IoU", "center_acc": f"{prefix}_Center_ACC", **at}
    return Scoring(f"{prefix}_ACC@{HIT_FROM}", _is_found, others, question, boxes=True)


def _is_found(record: Mapping[str, Any]) -> float:
    return float(overlap(record) >= HIT_FROM)


def overlap(record: Mapping[str, Any]) -> float:
    """IoU of the boxes that lmms-eval compares, `bbox` and `pred`, both fractions of 0-1."""
    return float(box_ious(np.asarray(record["bbox"]), np.asarray([record["pred"]]))[0])


def box_fields(record: Mapping[str, Any], marked_text: str, size: tuple[int, int]) -> Fields:
    """What a sample shows of boxes: pixels x1, y1, x2, y2; the overlap is that of the fractions.

    Args:
        record: What the task's `process_results` gives.
        marked_text: The answer with its special tokens.
        size: Width and height of the picture in pixels.
    """
    boxes = pixel_boxes(marked_text, *size)
    truth = [round(value * size[i % 2], 3) for i, value in enumerate(record["bbox"])]
    return {"truth": truth, "prediction": boxes[0] if boxes else None, "iou": overlap(record)}
