"""The kinds of questions that lmms-eval asks here: how a record becomes a row of its task, and a scored row a sample.

A kind's prompt and metric stand in `tasks/finevit_<kind>.yaml`.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from datasets import Features, Image, Value
from datasets import Sequence as SequenceFeature

from finecap.boxes import box_ious
from finevit_eval.questions.boxes import pixel_boxes

TEXT = Value("string")
Fields = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """One kind of question.

    Attributes:
        features: Of the rows.
        fields: Of a row besides "image" and "question", from the record, its qa item, the question's id and the split;
            a `ValueError` says why an item cannot be used.
        score_key: Where lmms-eval keeps the headline score.
        judged: What a sample tells beyond question and answer, from lmms-eval's sample and the answer with its special
            tokens; "score" must be there.
        others: Name -> lmms-eval's key of a further score.
    """

    features: Features
    fields: Callable[[Fields, Fields, str, str], Fields]
    score_key: str
    judged: Callable[[Mapping[str, Any], str], Fields]
    others: Mapping[str, str] = field(default_factory=dict)


def _doc_fields(record: Fields, item: Fields, question_id: str, split: str) -> Fields:
    return {"questionId": question_id, "docId": record["id"], "data_split": split, "answers": item["answers"]}


def _chart_fields(record: Fields, item: Fields, question_id: str, split: str) -> Fields:
    # ChartQA's two halves are "human_test" and "augmented_test"; generated questions belong to the second.
    return {"question_id": question_id, "type": "augmented_test", "answer": item["answers"][0]}


def _easyvqa_fields(record: Fields, item: Fields, question_id: str, split: str) -> Fields:
    return {"question_id": question_id, "answer": item["answers"][0]}


def _grounding_fields(record: Fields, item: Fields, question_id: str, split: str) -> Fields:
    try:
        x1, y1, x2, y2 = (float(value) for value in json.loads(item["answers"][0]))
    except (json.JSONDecodeError, TypeError, ValueError) as error:
        raise ValueError(f"the box {item['answers'][0]!r} is not JSON of four numbers") from error
    if not (0 <= x1 < x2 <= record["width"] and 0 <= y1 < y2 <= record["height"]):
        raise ValueError(f"the box {[x1, y1, x2, y2]} is empty or outside {record['width']}x{record['height']}")
    return {
        "question_id": question_id,
        "answer": [item["question"]],
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "file_name": record["id"],
        "image_width": record["width"],
        "image_height": record["height"],
    }


def _text_judged(key: str) -> Callable[[Mapping[str, Any], str], Fields]:
    return lambda sample, marked_text: {"score": float(sample[key])}


def _box_judged(sample: Mapping[str, Any], marked_text: str) -> Fields:
    """Boxes in pixels; the overlap is that of the fractions which lmms-eval scored."""
    record, doc = sample["refcoco_ACC@0.5"], sample["doc"]
    size = (doc["image_width"], doc["image_height"])
    iou = float(box_ious(np.asarray(record["bbox"]), np.asarray([record["pred"]]))[0])
    boxes = pixel_boxes(marked_text, *size)
    truth = [round(value * size[i % 2], 3) for i, value in enumerate(record["bbox"])]
    return {"truth": truth, "prediction": boxes[0] if boxes else None, "iou": iou, "score": float(iou >= 0.5)}


KINDS = {
    "doc": Kind(
        Features(
            {
                "questionId": TEXT,
                "question": TEXT,
                "image": Image(),
                "answers": SequenceFeature(TEXT),
                "docId": TEXT,
                "data_split": TEXT,
            }
        ),
        _doc_fields,
        "anls",
        _text_judged("anls"),
    ),
    "chart": Kind(
        Features({"question_id": TEXT, "type": TEXT, "question": TEXT, "answer": TEXT, "image": Image()}),
        _chart_fields,
        "relaxed_overall",
        _text_judged("relaxed_overall"),
    ),
    "grounding": Kind(
        Features(
            {
                "question_id": TEXT,
                "image": Image(),
                "question": TEXT,
                "answer": SequenceFeature(TEXT),
                "bbox": SequenceFeature(Value("float64")),
                "file_name": TEXT,
                "image_width": Value("int32"),
                "image_height": Value("int32"),
            }
        ),
        _grounding_fields,
        "refcoco_ACC@0.5",
        _box_judged,
        {"iou": "refcoco_IoU", "center_acc": "refcoco_Center_ACC"},
    ),
    "easyvqa": Kind(
        Features({"question_id": TEXT, "question": TEXT, "answer": TEXT, "image": Image()}),
        _easyvqa_fields,
        "exact_match",
        _text_judged("exact_match"),
    ),
}
