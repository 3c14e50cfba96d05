"""Boxes reach each lmms-eval task in the form that its own parser reads: judged by lmms-eval's functions."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lmms_eval.tasks.refcoco import utils_rec
from lmms_eval.tasks.refcoco_grounding import utils as json_grounding
from lmms_eval.tasks.screenspot import utils_rec as screenspot
from lmms_eval.tasks.screenspot_pro import utils as screenspot_pro
from lmms_eval.tasks.screenspot_v2 import utils as screenspot_v2
from PIL import Image

from finecap.boxes import format_box
from finevit_eval.questions.boxes import answer_for_task, box_writer

WIDTH, HEIGHT = 320, 300
BOX = [200.0, 20.0, 300.0, 80.0]
FRACTIONS = [BOX[0] / WIDTH, BOX[1] / HEIGHT, BOX[2] / WIDTH, BOX[3] / HEIGHT]
SWAPPED_AXES = [20.0, 200.0, 80.0, 300.0]


def refcoco_rec(answer):
    doc = {"question_id": "q", "answer": "a cat", "bbox": FRACTIONS}
    return utils_rec.refcoco_bbox_rec_acc05(
        [utils_rec.refcoco_bbox_rec_process_result(doc, [answer])["refcoco_ACC@0.5"]]
    )


def refcoco_json(answer):
    box = [BOX[0], BOX[1], BOX[2] - BOX[0], BOX[3] - BOX[1]]
    doc = {"question_id": "q", "answer": "a cat", "bbox": box, "image": Image.new("RGB", (WIDTH, HEIGHT))}
    scored = json_grounding.refcoco_grounding_process_result(doc, [answer])
    return json_grounding.refcoco_grounding_acc05([scored["refcoco_grounding_ACC@0.5"]])


def screenspot_rec(answer):
    doc = {"file_name": "f", "instruction": "i", "bbox": FRACTIONS, "data_type": "icon", "data_source": "web"}
    scored = screenspot.screenspot_rec_process_result(doc, [answer])
    return screenspot.screenspot_rec_aggregation_result([scored["screenspot_ACC@0.5"]], "ACC@0.5")


def screenspot_point(answer):
    doc = {"bbox": FRACTIONS, "data_type": "icon"}
    return float(screenspot_v2.screenspot_v2_process_results(doc, [answer])["screenspot_v2_action_acc"]["correct"])


def screenspot_pro_point(answer):
    doc = {"bbox": BOX, "image": Image.new("RGB", (WIDTH, HEIGHT)), "image_width": WIDTH, "image_height": HEIGHT}
    scored = screenspot_pro.screenspot_pro_process_results({**doc, "img_size": [WIDTH, HEIGHT]}, [answer])
    return float(scored["screenspot_pro_action_acc"]["correct"])


TASKS = {
    "refcoco_bbox_rec_testA": refcoco_rec,
    "refcoco+_bbox_rec_val": refcoco_rec,
    "refcocog_bbox_rec_test": refcoco_rec,
    "finevit_grounding": refcoco_rec,
    "refcoco_grounding_test": refcoco_json,
    "refcoco_plus_grounding_testA": refcoco_json,
    "screenspot_rec_test": screenspot_rec,
    "screenspot_v2": screenspot_point,
    "screenspot_pro": screenspot_pro_point,
}


@pytest.mark.parametrize("task", TASKS)
def test_the_true_box_scores_one(task):
    assert TASKS[task](answer_for_task(task, format_box(BOX, WIDTH, HEIGHT), WIDTH, HEIGHT)) == 1.0


@pytest.mark.parametrize("task", TASKS)
def test_swapped_axes_score_zero(task):
    assert TASKS[task](answer_for_task(task, format_box(SWAPPED_AXES, WIDTH, HEIGHT), WIDTH, HEIGHT)) == 0.0


@pytest.mark.parametrize("task", ["refcoco_bbox_rec_testA", "finevit_grounding", "screenspot_v2"])
def test_the_models_own_notation_would_not_be_read(task):
    assert TASKS[task](format_box(BOX, WIDTH, HEIGHT)) == 0.0


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    "text",
    ["no idea", "<|box_start|>(500,500),(400,400)<|box_end|>", "<|box_start|>(1,2),(3", "", "[0.5, 0.5, 0.5, 0.5]"],
)
def test_an_answer_without_a_usable_box_scores_zero_and_raises_nothing(task, text):
    assert TASKS[task](answer_for_task(task, text, WIDTH, HEIGHT)) == 0.0


@pytest.mark.parametrize("task", ["docvqa_val", "chartqa", "finevit_doc", "refcoco_bbox_val", "ocrbench"])
def test_tasks_of_text_are_left_alone(task):
    assert box_writer(task) is None
    assert answer_for_task(task, "(1,2),(3,4)", WIDTH, HEIGHT) is None


@st.composite
def intervals(draw):
    """(side of the picture, start, length) in pixels, wide enough for the notation's 1000 steps."""
    side = draw(st.integers(28, 4000))
    length = draw(st.integers(side // 8 + 1, side // 2))
    return side, draw(st.integers(0, side - length)), length


@given(intervals(), intervals())
def test_the_conversion_costs_no_more_than_the_notation(horizontal, vertical):
    (width, x, w), (height, y, h) = horizontal, vertical
    answer = answer_for_task("finevit_grounding", format_box([x, y, x + w, y + h], width, height), width, height)
    fractions = utils_rec.parse_float_sequence_within(answer)
    truth = [x / width, y / height, (x + w) / width, (y + h) / height]
    assert fractions == pytest.approx(truth, abs=0.5e-3 + 1e-6)


def test_json_boxes_are_pixels():
    answer = answer_for_task("refcoco_grounding_test", format_box(BOX, WIDTH, HEIGHT), WIDTH, HEIGHT)
    assert json.loads(answer)[0]["bbox_2d"] == pytest.approx(BOX, abs=0.2)
