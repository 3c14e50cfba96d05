"""The FineCap record: the one schema that every data producer writes and every training stage reads.

Pixels are the only coordinate system: a box is `[x1, y1, x2, y2]` in absolute pixels of the stored picture, the origin
at the top left corner, `x2` and `y2` exclusive (a box that covers the whole picture is `[0, 0, width, height]`).
"""

from __future__ import annotations

import json
import math
from typing import Any, TypedDict

from datasets import Features, Image, List, Value

from finecap.shards.layout import SPLITS

REGION_KINDS = ("object", "text", "document_text", "chart")

FINECAP_FEATURES = Features(
    {
        "id": Value("string"),
        "image": Image(),
        "width": Value("int32"),
        "height": Value("int32"),
        "source": Value("string"),
        "license": Value("string"),
        "split": Value("string"),
        "global_caption": Value("string"),
        "captioner": Value("string"),
        "captions": List({"style": Value("string"), "text": Value("string"), "captioner": Value("string")}),
        "regions": List(
            {
                "bbox": List(Value("float32"), length=4),
                "kind": Value("string"),
                "label": Value("string"),
                "caption": Value("string"),
                "text": Value("string"),
                "score": Value("float32"),
                "verified": Value("bool"),
            }
        ),
        "qa": List({"question": Value("string"), "answers": List(Value("string")), "kind": Value("string")}),
        "provenance": {
            "phrases": Value("string"),
            "boxes": Value("string"),
            "ocr": Value("string"),
            "checks": List(Value("string")),
            "flags": List(Value("string")),
        },
    }
)


class Region(TypedDict):
    """One box of a record. `label` is a class name for objects and the level (word, line, bar, tick, ...)
    otherwise.
    """

    bbox: list[float]
    kind: str
    label: str
    caption: str | None
    text: str | None
    score: float | None
    verified: bool | None


class QA(TypedDict):
    """One question about a record; for kind "grounding" the question is the referring expression and the only answer
    is a JSON list `[x1, y1, x2, y2]` in pixels.
    """

    question: str
    answers: list[str]
    kind: str


class Caption(TypedDict):
    """One of several captions of a picture; `style` is for instance "short" or "dense"."""

    style: str
    text: str
    captioner: str


class Provenance(TypedDict):
    """How the caption engine knows what a record says; None in records that are exact by construction.

    `phrases`, `boxes`, `ocr`: name and version of what found them. `checks`: what was verified ("regrounded", "numbers
    against OCR", ...); `flags`: what the checks found wrong.
    """

    phrases: str | None
    boxes: str | None
    ocr: str | None
    checks: list[str]
    flags: list[str]


class Record(TypedDict):
    """One picture and everything known about it. `image` is `{"bytes": encoded picture, "path": None}`, as
    `datasets.Image` stores it. Records that a generator makes have no further `captions` and no `provenance` (None).
    """

    id: str
    image: dict[str, Any]
    width: int
    height: int
    source: str
    license: str
    split: str
    global_caption: str | None
    captioner: str | None
    regions: list[Region]
    qa: list[QA]
    captions: list[Caption]
    provenance: Provenance | None


def new_record(
    name: str,
    image: bytes,
    size: tuple[int, int],
    source: str,
    license: str,
    split: str,
    regions: list[Region],
    qa: list[QA],
    global_caption: str | None = None,
) -> Record:
    """A record that is exact by construction: its caption is by the generator, `source`.

    Args:
        name: its `id`.
        image: encoded picture.
        size: width and height in pixels.
    """
    return {
        "id": name,
        "image": {"bytes": image, "path": None},
        "width": size[0],
        "height": size[1],
        "source": source,
        "license": license,
        "split": split,
        "global_caption": global_caption,
        "captioner": source if global_caption else None,
        "regions": regions,
        "qa": qa,
        "captions": [],
        "provenance": None,
    }


def region(
    bbox: tuple[float, float, float, float] | list[float],
    kind: str,
    label: str,
    caption: str | None = None,
    text: str | None = None,
) -> Region:
    """A region whose box is exact by construction (`score` is None, `verified` is True)."""
    return {
        "bbox": [float(value) for value in bbox],
        "kind": kind,
        "label": label,
        "caption": caption,
        "text": text,
        "score": None,
        "verified": True,
    }


def grounding_answer(bbox: list[float] | tuple[float, float, float, float]) -> str:
    """The answer string of a "grounding" question: a JSON list of four pixel numbers, whole numbers written without a
    fraction.
    """
    return json.dumps([int(value) if float(value).is_integer() else round(float(value), 2) for value in bbox])


def validate_record(record: Record) -> None:
    """Check one record.

    Raises:
        ValueError: naming the record and the first thing wrong with it: a box outside the picture or without
            area, an unknown kind or split, an empty question or answer, a text region without text, a
            grounding answer that is not a box, no picture bytes.
    """
    name = record["id"]
    if not name:
        raise ValueError("a record has an empty id; every record needs a unique one")
    if record["split"] not in SPLITS:
        raise ValueError(f"record {name}: split is {record['split']!r}, expected one of {SPLITS}")
    if not record["license"] or not record["source"]:
        raise ValueError(f"record {name}: source and license must both be given")
    if not record["image"].get("bytes"):
        raise ValueError(f"record {name}: the image has no embedded bytes")
    for item in record["regions"]:
        _validate_region(item, record)
    for item in record["qa"]:
        _validate_qa(item, record)


def _validate_region(item: Region, record: Record) -> None:
    check_box(item["bbox"], record["width"], record["height"], f"record {record['id']}: region {item['label']!r}")
    if item["kind"] not in REGION_KINDS:
        raise ValueError(f"record {record['id']}: region kind is {item['kind']!r}, expected one of {REGION_KINDS}")
    if item["kind"] in ("text", "document_text") and not item["text"]:
        raise ValueError(f"record {record['id']}: a {item['kind']} region at {item['bbox']} has no text")


def _validate_qa(item: QA, record: Record) -> None:
    where = f"record {record['id']}: question {item['question']!r}"
    if not item["question"].strip() or not item["kind"]:
        raise ValueError(f"{where}: the question and its kind must not be empty")
    if not item["answers"] or not all(answer.strip() for answer in item["answers"]):
        raise ValueError(f"{where}: needs at least one answer, and no empty ones; got {item['answers']!r}")
    if item["kind"] == "grounding":
        try:
            box = json.loads(item["answers"][0])
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{where}: the answer must be a JSON list [x1, y1, x2, y2], got {item['answers'][0]!r}"
            ) from error
        check_box(box, record["width"], record["height"], where)


def check_box(box: Any, width: int, height: int, where: str) -> None:
    """Raise a ValueError that starts with `where` unless `box` is four finite numbers with positive area inside
    (width, height).
    """
    if not isinstance(box, list | tuple) or len(box) != 4 or not all(isinstance(value, int | float) for value in box):
        raise ValueError(f"{where}: a box is four numbers x1, y1, x2, y2 in pixels, got {box!r}")
    x1, y1, x2, y2 = box
    if not all(math.isfinite(value) for value in box) or not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height):
        raise ValueError(
            f"{where}: box {list(box)} must have positive area and lie inside the {width}x{height} picture"
        )
