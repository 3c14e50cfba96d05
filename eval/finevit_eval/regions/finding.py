"""Scores of boxes that were asked for: one convention, for every data set.

An answer's box is the first usable one that the model wrote, read once, by `finecap.boxes` (the same box that
lmms-eval is given, see `questions.boxes`). A box counts as found at an overlap (intersection over union) of 0.5 *and
more*, as in RefCOCO; Ref-L4's own code asks for more than 0.5, which differs on equality alone.
"""

import math
from collections.abc import Sequence

import numpy as np

from finecap.boxes import box_ious
from finevit_eval.questions.boxes import pixel_boxes
from finevit_eval.regions.asking import Answered, Question
from finevit_eval.regions.mixing import another_of_each
from finevit_eval.result import Outcome

THRESHOLDS = tuple(percent / 100 for percent in range(50, 100, 5))
"""Of Ref-L4's mean accuracy, COCO's ten."""
FOUND = THRESHOLDS[0]
SMALL, LARGE = 128, 256
"""Ref-L4's limits of the side of a square with a box's area, in pixels: small is below, large above."""


def first_box(answer: Answered) -> list[float] | None:
    """The box of an answer in pixels x1, y1, x2, y2; None if it holds none."""
    boxes = pixel_boxes(answer.marked_text, answer.width, answer.height)
    return boxes[0] if boxes else None


def overlap(truth: Sequence[float], box: Sequence[float] | None) -> float:
    """Intersection over union of two boxes, 0-1; 0 without a box."""
    return float(box_ious(np.asarray(truth), np.asarray([box]))[0]) if box is not None else 0.0


def judge_boxes(questions: Sequence[Question], answers: Sequence[Answered]) -> Outcome:
    """Acc@0.5; beside it the mean overlap, and the mean accuracy over the ten thresholds of 0.5 to 0.95.

    Controls: "shuffled" gives each question the box of another one; "whole_picture" answers the whole picture.
    """
    boxes = [first_box(answer) for answer in answers]
    truths = [question.truth for question in questions]
    ious = np.asarray([overlap(truth, box) for truth, box in zip(truths, boxes, strict=True)])
    mixed = another_of_each(len(boxes))
    others = np.asarray([overlap(truth, boxes[at]) for truth, at in zip(truths, mixed, strict=True)])
    whole = [
        overlap(truth, (0, 0, answer.width, answer.height)) for truth, answer in zip(truths, answers, strict=True)
    ]
    samples = [
        {
            "id": question.id,
            "group": answer.digest,
            "question": question.about,
            "truth": list(question.truth),
            "prediction": box,
            "text": answer.marked_text,
            "iou": float(iou),
            "score": float(iou >= FOUND),
        }
        for question, answer, box, iou in zip(questions, answers, boxes, ious, strict=True)
    ]
    return Outcome(
        accuracy(ious, FOUND),
        samples,
        {
            "iou": float(ious.mean()),
            "acc@0.5:0.95": float(np.mean([accuracy(ious, threshold) for threshold in THRESHOLDS])),
            "answers_with_a_box": float(np.mean([box is not None for box in boxes])),
        },
        {"shuffled": accuracy(others, FOUND), "whole_picture": accuracy(np.asarray(whole), FOUND)},
    )


def judge_boxes_by_size(questions: Sequence[Question], answers: Sequence[Answered]) -> Outcome:
    """As `judge_boxes`, and what Ref-L4 reports besides: Acc@0.75, Acc@0.9, and Acc@0.5 of small, medium and large
    boxes, where there are such.
    """
    outcome = judge_boxes(questions, answers)
    ious = np.asarray([sample["iou"] for sample in outcome.samples])
    sizes = np.asarray([_side(question.truth) for question in questions])
    of_size = {"small": sizes < SMALL, "medium": (sizes >= SMALL) & (sizes <= LARGE), "large": sizes > LARGE}
    further = {f"acc@{threshold}": accuracy(ious, threshold) for threshold in (0.75, 0.9)}
    further |= {f"{name}_acc@0.5": accuracy(ious[those], FOUND) for name, those in of_size.items() if those.any()}
    return Outcome(outcome.score, outcome.samples, {**outcome.others, **further}, outcome.controls)


def accuracy(ious: np.ndarray, threshold: float) -> float:
    """The share of overlaps that reach a threshold."""
    return float((ious >= threshold).mean())


def _side(box: Sequence[float]) -> float:
    x1, y1, x2, y2 = box
    return math.sqrt((x2 - x1) * (y2 - y1))
