"""The kinds of questions that lmms-eval asks here: how a record becomes a row of its task, and how answers
are scored.

A kind's prompt and metric stand in `tasks/finevit_<kind>.yaml`.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass

from datasets import Features, Image, Value
from datasets import Sequence as SequenceFeature

from finevit_eval.questions.scoring import Fields, Scoring, box_scoring

TEXT = Value("string")


@dataclass(frozen=True)
class Kind:
    """One kind of question.

    Attributes:
        features: Of the rows.
        fields: Of a row besides "image" and "question", from the record, its qa item, the question's id and the split;
            a `ValueError` says why an item cannot be used.
        scoring: How lmms-eval's scores are read.
    """

    features: Features
    fields: Callable[[Fields, Fields, str, str], Fields]
    scoring: Scoring


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
        Scoring("anls"),
    ),
    "chart": Kind(
        Features({"question_id": TEXT, "type": TEXT, "question": TEXT, "answer": TEXT, "image": Image()}),
        _chart_fields,
        Scoring("relaxed_overall"),
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
        box_scoring("refcoco", "question"),
    ),
    "easyvqa": Kind(
        Features({"question_id": TEXT, "question": TEXT, "answer": TEXT, "image": Image()}),
        _easyvqa_fields,
        Scoring("exact_match"),
    ),
}
