"""A record becomes a conversation whose questions are lmms-eval's and whose answers are the record's."""

import importlib
import json
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from finecap.boxes import format_box, parse_boxes
from finecap.tasks import wording as prompts
from finecap.tasks.conversation import Turn, record_to_turns
from finecap.tasks.mixture import DENSE_TASKS

ALL_DENSE = dict.fromkeys(DENSE_TASKS, 1.0)


def region(bbox, kind="document_text", label="line", text=None, caption=None):
    return {"bbox": bbox, "kind": kind, "label": label, "text": text, "caption": caption}


@pytest.fixture
def record():
    return {
        "id": "doc/1",
        "width": 200,
        "height": 100,
        "global_caption": "A form.",
        "regions": [
            region([0, 0, 100, 20], text="total 42"),
            region([0, 0, 50, 20], label="word", text="total"),
            region([60, 0, 100, 20], label="word", text="42"),
            region([0, 40, 100, 60], text="name Ann"),
            region([20, 70, 60, 100], kind="object", label="cat", caption="a red cat"),
        ],
        "qa": [
            {"question": "What is the total?", "answers": ["42", "42.00"], "kind": "doc"},
            {"question": "Which bar is lowest?", "answers": ["A"], "kind": "chart"},
            {"question": "the red cat", "answers": [json.dumps([20, 70, 60, 100])], "kind": "grounding"},
            {"question": "is there a cat?", "answers": ["yes"], "kind": "easyvqa"},
        ],
    }


def lmms_eval_task(path):
    root = Path(importlib.import_module("lmms_eval").__file__).parent / "tasks"
    text = (root / path).read_text().replace("!function ", "")
    return yaml.safe_load(text)["lmms_eval_specific_kwargs"]["default"]


@pytest.mark.parametrize(
    ("kind", "yaml_file", "function"),
    [
        ("doc", "docvqa/_default_template_docvqa_yaml", "docvqa.utils.docvqa_doc_to_text"),
        ("chart", "chartqa/chartqa.yaml", "chartqa.utils.chartqa_doc_to_text"),
    ],
)
def test_question_words_are_those_of_the_installed_lmms_eval_tasks(kind, yaml_file, function):
    module, name = function.rsplit(".", 1)
    doc_to_text = getattr(importlib.import_module(f"lmms_eval.tasks.{module}"), name)
    expected = doc_to_text({"question": "What is it?"}, lmms_eval_task(yaml_file))
    assert prompts.question_prompt(kind, "What is it?") == expected


def test_grounding_words_are_those_of_refcoco_bbox_rec():
    from lmms_eval.tasks.refcoco.utils_rec import refcoco_bbox_rec_doc_to_text

    assert prompts.question_prompt("grounding", "the red cat") == refcoco_bbox_rec_doc_to_text(
        {"answer": "the red cat"}
    )


def test_every_question_is_asked_once_with_its_first_answer(record):
    turns = record_to_turns(record, "0", format_box, mixture={"qa": 9})
    assert {turn.task for turn in turns} == {"doc", "chart", "grounding", "easyvqa"}
    answers = {turn.task: turn.answer for turn in turns}
    assert answers["doc"] == "42"
    assert answers["grounding"] == format_box([20, 70, 60, 100], 200, 100)


def test_dense_tasks_say_what_the_regions_say(record):
    turns = {t.task: t for t in record_to_turns(record, "0", format_box, mixture={**ALL_DENSE, "qa": 0})}
    assert set(turns) == set(DENSE_TASKS)
    assert turns["transcribe"].answer == "total 42\nname Ann"
    first, second = parse_boxes(turns["ocr_boxes"].answer, 200, 100).boxes
    assert first.box == (0, 0, 100, 20)
    assert second.box == (0, 40, 100, 60)
    located = next(
        r
        for r in record["regions"]
        if r["text"] and prompts.TEXT_TO_BOX.format(text=r["text"]) == turns["text_to_box"].prompt
    )
    assert turns["text_to_box"].answer == format_box(located["bbox"], 200, 100)
    read = next(r for r in record["regions"] if r["text"] == turns["box_to_text"].answer)
    assert format_box(read["bbox"], 200, 100) in turns["box_to_text"].prompt
    assert turns["caption_to_box"] == Turn(
        prompts.GROUNDING_PRE_PROMPT + "a red cat", format_box([20, 70, 60, 100], 200, 100), "caption_to_box"
    )
    assert turns["box_to_caption"].answer == "a red cat"
    assert turns["global_caption"].answer == "A form."


def test_text_that_stands_twice_is_never_asked_for_by_its_words(record):
    record["regions"] = [region([0, 0, 9, 9], text="same"), region([50, 50, 90, 90], text="same")]
    assert record_to_turns(record, "0", format_box, {"text_to_box": 2, "qa": 0}) == []
    assert len(record_to_turns(record, "0", format_box, {"box_to_text": 2, "qa": 0})) == 2


def test_a_bad_box_is_left_out_and_reported_with_its_reason(record):
    record["qa"] = [{"question": "the dog", "answers": ["[150, 10, 300, 50]"], "kind": "grounding"}]
    reasons = []
    assert record_to_turns(record, "0", format_box, {"qa": 9}, report=reasons.append) == []
    assert "the dog" in reasons[0]
    assert "lie inside the 200x100 picture" in reasons[0]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), weight=st.floats(0, 4), max_turns=st.integers(1, 6))
def test_same_rng_same_turns_and_never_more_than_allowed(seed, weight, max_turns):
    record = {
        "id": "r",
        "width": 50,
        "height": 50,
        "qa": [],
        "regions": [region([i, i, i + 10, i + 10], text=f"t{i}") for i in range(10)],
    }
    mixture = {"box_to_text": weight, "transcribe": weight}
    first = record_to_turns(record, str(seed), format_box, mixture, max_turns)
    assert first == record_to_turns(record, str(seed), format_box, mixture, max_turns)
    assert len(first) <= max_turns
    assert sum(turn.task == "box_to_text" for turn in first) in (
        int(weight),
        int(weight) + 1,
        max_turns,
        max_turns - 1,
    )


def test_a_weight_is_the_expected_number_of_turns(record):
    mixture = {"qa": 0, "doc": 0.3}
    count = sum(len(record_to_turns(record, str(seed), format_box, mixture)) for seed in range(2000))
    assert 0.26 < count / 2000 < 0.34


def test_a_task_more_or_less_changes_no_other_task_s_turns(record):
    record["regions"] += [region([i, 0, i + 9, 9], text=f"word {i}", label="word") for i in range(0, 90, 10)]

    def asked(mixture, task="box_to_text"):
        turns = record_to_turns(record, "0/1/2", format_box, {"qa": 1, **mixture})
        return sorted(turn for turn in turns if turn.task == task)

    alone = asked({"box_to_text": 2.5})
    assert len(alone) in (2, 3)
    for more in ({"transcribe": 0.5}, {"text_to_box": 1.5, "ocr_boxes": 0.0}, {"qa": 0.3}):
        assert asked({"box_to_text": 2.5, **more}) == alone
    assert asked({"qa": 2, "box_to_text": 2}, "doc") == asked({"qa": 2}, "doc")


def test_words_with_a_control_token_are_left_out_and_a_transcript_with_them_altogether(record):
    control = re.compile(re.escape("<|im_end|>"))
    record["regions"][3]["text"] = "name <|im_end|> Ann"
    record["global_caption"] = "<|im_end|>"
    reasons = []
    turns = record_to_turns(
        record, "0", format_box, {**ALL_DENSE, "qa": 9}, report=reasons.append, control_tokens=control
    )
    assert not {"transcribe", "ocr_boxes", "global_caption"} & {turn.task for turn in turns}
    assert "caption_to_box" in {turn.task for turn in turns}
    assert all("<|im_end|>" not in turn.prompt + turn.answer for turn in turns)
    assert all(reason.startswith("a special token stands in the data: ") for reason in reasons)
    assert {turn.task for turn in record_to_turns(record, "0", format_box, ALL_DENSE)} >= {"transcribe", "ocr_boxes"}


@pytest.mark.parametrize("answer", ["no JSON", "[1,2,null,4]", "null", "[" * 5000, "[0, 0, NaN, 5]", "[0,0,9]"])
def test_a_grounding_answer_that_is_no_box_is_left_out_and_reported(record, answer):
    record["qa"] = [{"question": "the dog", "answers": [answer], "kind": "grounding"}]
    reasons = []
    assert record_to_turns(record, "0", format_box, {"qa": 9}, report=reasons.append) == []
    assert "the dog" in reasons[0]
