"""Boxes are scored as lmms-eval scores them, on a thousand answers of every kind; another reading scores otherwise."""

import random

import numpy as np
import pytest
from lmms_eval.tasks.refcoco.utils_rec import (
    compute_iou,
    parse_float_sequence_within,
    refcoco_bbox_rec_aggregation_result,
)

from finecap.boxes import format_box
from finevit_eval.questions.boxes import answer_for_task
from finevit_eval.regions.asking import Answered, Question
from finevit_eval.regions.finding import THRESHOLDS, accuracy, first_box, judge_boxes, judge_boxes_by_size, overlap

N = 1000


def random_box(rng, width, height):
    x1, x2 = sorted(rng.sample(range(width + 1), 2))
    y1, y2 = sorted(rng.sample(range(height + 1), 2))
    return [x1, y1, x2, y2]


def near(rng, box, width, height):
    """A box that often overlaps another one well."""
    x1, y1, x2, y2 = (side + rng.randint(-12, 12) for side in box)
    x1, y1 = min(max(x1, 0), width - 12), min(max(y1, 0), height - 12)
    return [x1, y1, min(max(x2, x1 + 11), width), min(max(y2, y1 + 11), height)]


def written(rng, box, width, height):
    """A box in one of the ways in which models write, some of them unusable."""
    x1, y1, x2, y2 = (round(side / size * 1000) for side, size in zip(box, (width, height) * 2, strict=True))
    return rng.choice(
        [
            f"<|box_start|>({x1},{y1}),({x2},{y2})<|box_end|>",
            f"It is at ({x1},{y1}),({x2},{y2}).",
            f"[{x1}, {y1}, {x2}, {y2}] or rather [1, 2, 3, 4]",
            f"[{x1 / 1000:.3f}, {y1 / 1000:.3f}, {x2 / 1000:.3f}, {y2 / 1000:.3f}]",
            f'```json\n{{"bbox_2d": [{x1}, {y1}, {x2}, {y2}], "label": "dog"}}\n```',
            f"<|box_start|>({x2},{y2}),({x1},{y1})<|box_end|>",
            f"<|box_start|>({x1},{y1}),({x1},{y2})<|box_end|>",
            f"<|box_start|>({x1},{y1}),({x2},{y2 + 2000})<|box_end|>",
            f"<|box_start|>({x1},{y1}),(",
            "",
            "there is no such thing",
        ]
    )


@pytest.fixture(scope="module")
def fuzzed():
    """A thousand questions and answers."""
    rng = random.Random(0)
    questions, answers = [], []
    for number in range(N):
        width, height = rng.randint(40, 900), rng.randint(40, 900)
        truth = random_box(rng, width, height)
        box = near(rng, truth, width, height) if rng.random() < 0.7 else random_box(rng, width, height)
        questions.append(Question(str(number), number, "", "", truth))
        answers.append(Answered(written(rng, box, width, height), "", width, height, str(number)))
    return questions, answers


def lmms_records(questions, answers, swapped=False):
    """What lmms-eval's own parser reads out of our adapter's answers, and the truth, both as fractions."""
    records = []
    for question, answer in zip(questions, answers, strict=True):
        text = answer_for_task("refcoco_bbox_rec_val", answer.marked_text, answer.width, answer.height)
        pred = parse_float_sequence_within(text)
        sizes = (answer.width, answer.height) * 2
        truth = [side / size for side, size in zip(question.truth, sizes, strict=True)]
        records.append({"bbox": truth, "pred": [pred[1], pred[0], pred[3], pred[2]] if swapped else pred})
    return records


def test_a_thousand_answers_score_as_by_lmms_evals_own_functions(fuzzed):
    outcome = judge_boxes(*fuzzed)
    records = lmms_records(*fuzzed)
    theirs = [compute_iou(record["bbox"], record["pred"]) for record in records]
    ours = [sample["iou"] for sample in outcome.samples]
    assert np.abs(np.subtract(ours, theirs)).max() < 1e-4  # six decimals of a fraction
    assert outcome.score == refcoco_bbox_rec_aggregation_result(records, "ACC@0.5")
    for threshold in (0.1, 0.3, 0.5, 0.7, 0.9):
        key = f"ACC@{threshold}"
        assert accuracy(np.asarray(ours), threshold) == refcoco_bbox_rec_aggregation_result(records, key)
    assert outcome.others["iou"] == pytest.approx(np.mean(theirs), abs=1e-6)
    expected = np.mean([np.mean(np.asarray(theirs) >= threshold) for threshold in THRESHOLDS])
    assert outcome.others["acc@0.5:0.95"] == pytest.approx(expected, abs=1e-12)
    assert 0.2 < outcome.score < 0.8
    assert 0.4 < outcome.others["answers_with_a_box"] < 0.7


def test_the_same_boxes_in_pixels_overlap_to_the_last_digit(fuzzed):
    boxes = [(question.truth, first_box(answer)) for question, answer in zip(*fuzzed, strict=True)]
    for truth, box in ((truth, box) for truth, box in boxes if box is not None):
        assert overlap(truth, box) == pytest.approx(compute_iou(truth, box), abs=1e-12)


def test_swapped_axes_or_the_boxes_of_other_questions_score_less(fuzzed):
    outcome = judge_boxes(*fuzzed)
    assert refcoco_bbox_rec_aggregation_result(lmms_records(*fuzzed, swapped=True), "ACC@0.5") < 0.5 * outcome.score
    assert outcome.controls["shuffled"] < 0.3 * outcome.score
    assert outcome.controls["whole_picture"] < 0.5 * outcome.score


def answered(text):
    return Answered(text, text, 1000, 500, "picture")


def test_the_first_box_counts_and_no_better_one_behind_it():
    right, wrong = (format_box(box, 1000, 500) for box in ((100, 100, 300, 200), (600, 300, 900, 400)))
    question = Question("one", 0, "", "", [100, 100, 300, 200])
    outcome = judge_boxes([question] * 2, [answered(right + wrong), answered(wrong + right)])
    assert [sample["score"] for sample in outcome.samples] == [1.0, 0.0]


def test_pixels_are_not_tried_as_a_second_reading():
    question = Question("one", 0, "", "", [100, 100, 300, 200])
    assert judge_boxes([question], [answered("[100, 100, 300, 200]")]).score == 0.0
    assert judge_boxes([question], [answered("[100, 200, 300, 400]")]).score == 1.0


def test_ref_l4_tells_small_boxes_from_large_ones():
    boxes = [(0, 0, 100, 100), (0, 0, 200, 200), (0, 0, 900, 450)]
    questions = [Question(str(at), at, "", "", list(box)) for at, box in enumerate(boxes)]
    answers = [answered(format_box(boxes[0], 1000, 500)), answered(""), answered(format_box(boxes[2], 1000, 500))]
    others = judge_boxes_by_size(questions, answers).others
    assert [others[f"{size}_acc@0.5"] for size in ("small", "medium", "large")] == [1.0, 0.0, 1.0]
    assert others["acc@0.9"] == pytest.approx(2 / 3)
    assert "medium_acc@0.5" not in judge_boxes_by_size(questions[:1], answers[:1]).others
