"""A record becomes a conversation whose questions are lmms-eval's and whose answers are the record's."""

import importlib
import json
import re
from collections import Counter
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from finecap.boxes import format_box, parse_boxes
from finecap.tasks import wording as prompts
from finecap.tasks.conversation import Turn, record_to_turns
from finecap.tasks.mixture import DENSE_TASKS, NAMED_MIXTURES
from finecap.tasks.wording import load_wordings

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
            region([120, 0, 200, 30], kind="text", text="Stop"),
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
    assert turns["transcribe"].answer == "total 42\nname Ann\nStop"
    first, second, _ = parse_boxes(turns["ocr_boxes"].answer, 200, 100).boxes
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


def test_text_of_photographs_and_of_documents_is_asked_for_apart(record):
    def answers(task, count=9):
        return {turn.answer for turn in record_to_turns(record, "0", format_box, {task: count, "qa": 0})}

    assert answers("box_to_photo_text") == {"Stop"}
    assert answers("box_to_document_text") == {"total 42", "total", "42", "name Ann"}
    assert answers("box_to_text") == answers("box_to_photo_text") | answers("box_to_document_text")
    assert answers("photo_text_to_box") == {format_box([120, 0, 200, 30], 200, 100)}
    # A sign that says what a page says cannot be found by its words, although it is the only sign.
    record["regions"].append(region([0, 80, 40, 100], text="stop"))
    assert answers("photo_text_to_box") == set()


def test_the_mixture_of_the_paper_asks_in_its_shares_about_several_regions_a_conversation(record):
    boxes = [[10 * i, 0, 10 * i + 9, 9] for i in range(8)]
    record["regions"] = [region(box, kind="object", caption=f"thing {i}") for i, box in enumerate(boxes)]
    record["regions"] += [region(box, kind="text", text=f"sign {i}") for i, box in enumerate(boxes)]
    record["regions"] += [region(box, text=f"line {i}") for i, box in enumerate(boxes)]
    rounds = 1500
    counts = Counter(
        turn.task
        for seed in range(rounds)
        for turn in record_to_turns(record, str(seed), format_box, NAMED_MIXTURES["paper"])
    )
    total = counts.total()
    assert total / rounds > 8
    for words, share in (("global", 0.122), ("caption_to_box", 0.437 / 2), ("box_to_caption", 0.437 / 2)):
        assert sum(n for task, n in counts.items() if words in task) / total == pytest.approx(share, abs=0.01)
    for words, share in (("photo_text", 0.275), ("document_text", 0.166)):
        assert sum(n for task, n in counts.items() if words in task) / total == pytest.approx(share, abs=0.01)
        assert counts[f"box_to_{words}"] / counts[f"{words}_to_box"] == pytest.approx(1, abs=0.1)


def test_wordings_are_drawn_for_each_turn_and_change_neither_answers_nor_other_tasks(record):
    several = load_wordings("several")

    def asked(wordings, **more):
        mixture = {**ALL_DENSE, "qa": 1, **more}
        return [record_to_turns(record, str(seed), format_box, mixture, wordings=wordings) for seed in range(40)]

    fixed, worded = asked(None), asked(several)
    assert [[(t.answer, t.task) for t in turns] for turns in fixed] == [
        [(t.answer, t.task) for t in turns] for turns in worded
    ]
    assert asked(load_wordings("one")) == fixed
    prompts_of = {task: {t.prompt for turns in worded for t in turns if t.task == task} for task in DENSE_TASKS}
    assert prompts_of["global_caption"] == set(several["global_caption"])
    assert prompts_of["transcribe"] == set(several["transcribe"])
    assert all(t in fixed[0] for t in worded[0] if t.task not in DENSE_TASKS)

    def without(turns, *left_out):
        return [[t for t in one if t.task not in left_out] for one in turns]

    one_more = {**several, "transcribe": [*several["transcribe"], "Read."]}
    assert without(asked(one_more), "transcribe") == without(worded, "transcribe")
    assert asked(one_more) != worded


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
