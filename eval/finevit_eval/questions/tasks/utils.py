"""Functions that the task YAMLs name with `!function`; scoring itself stays lmms-eval's."""

from typing import Any

from datasets import Dataset, Features, Sequence, Value, concatenate_datasets
from lmms_eval.tasks.refcoco.utils_rec import refcoco_bbox_rec_process_result

from finecap.tasks.wording import question_prompt


def grounding_rows(dataset: Dataset) -> Dataset:
    """One row per referring expression, boxes as fractions of 0-1 (x1, y1, x2, y2).

    Does what `refcoco/utils_rec.py:refcoco_bbox_rec_preprocess_dataset` does, without decoding the pictures.

    Args:
        dataset: Rows in RefCOCO's schema (`bbox` x, y, width, height in pixels; `answer` a list of expressions) with
            the picture's `image_width` and `image_height`.
    """
    small = dataset.remove_columns("image")
    rows = [(index, expression, _fractions(row)) for index, row in enumerate(small) for expression in row["answer"]]
    features = Features({**small.features, "answer": Value("string"), "bbox": Sequence(Value("float64"))})
    exploded = Dataset.from_list(
        [{**small[index], "answer": expression, "bbox": box} for index, expression, box in rows], features=features
    )
    images = dataset.select_columns("image").select([index for index, _, _ in rows])
    return concatenate_datasets([exploded, images], axis=1)


def _fractions(row: dict[str, Any]) -> list[float]:
    x, y, width, height = row["bbox"]
    return [
        x / row["image_width"],
        y / row["image_height"],
        (x + width) / row["image_width"],
        (y + height) / row["image_height"],
    ]


def grounding_process_results(doc: dict[str, Any], results: list[str]) -> dict[str, dict[str, Any]]:
    """lmms-eval's own scoring record, with inverted or empty predicted boxes counted as no box.

    `refcoco/utils_rec.py:compute_iou` divides by a union that such boxes can make zero or negative.
    """
    scored = refcoco_bbox_rec_process_result(doc, results)
    for record in scored.values():
        x1, y1, x2, y2 = record["pred"]
        if not (x2 > x1 and y2 > y1):
            record["pred"] = [0, 0, 0, 0]
    return scored


def easyvqa_doc_to_text(doc: dict[str, Any]) -> str:
    """The question in the words that the model was trained on."""
    return question_prompt("easyvqa", doc["question"])
