"""The FineCap record: the one schema that every data producer writes and every training stage reads.

Pixels are the only coordinate system: a box is `[x1, y1, x2, y2]` in absolute pixels of the stored picture, the origin
at the top left corner, `x2` and `y2` exclusive (a box that covers the whole picture is `[0, 0, width, height]`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

from finecap.shards.layout import SPLITS
from finecap.verdicts import REFUTED, VERDICTS, VERIFIED, Verdict

REGION_KINDS = ("object", "text", "document_text", "chart")
TEXT_KINDS = ("text", "document_text")  # regions that hold writing: in a photograph, on a page


class Region(TypedDict):
    """One box of a record. `label` is a class name for objects and the level (word, line, bar, tick, ...)
    otherwise. `verdict` (finecap.verdicts) is on the caption of an object and on the text of a line; None if nobody
    looked a second time. A refuted caption is left out, so such a region has none.
    """

    bbox: list[float]
    kind: str
    label: str
    caption: str | None
    text: str | None
    score: float | None
    verdict: Verdict | None


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
    `datasets.Image` stores it. Records that a generator makes have no `provenance` (None).
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
    captions: Sequence[Caption] = (),
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
        "captions": list(captions),
        "provenance": None,
    }


def region(
    bbox: tuple[float, float, float, float] | list[float],
    kind: str,
    label: str,
    caption: str | None = None,
    text: str | None = None,
) -> Region:
    """A region whose box is exact by construction (`score` is None, `verdict` is "verified")."""
    return {
        "bbox": [float(value) for value in bbox],
        "kind": kind,
        "label": label,
        "caption": caption,
        "text": text,
        "score": None,
        "verdict": VERIFIED,
    }


def grounding_answer(bbox: list[float] | tuple[float, float, float, float]) -> str:
    """The answer string of a "grounding" question: a JSON list of four pixel numbers, whole numbers written without a
    fraction.
    """
    return json.dumps([int(value) if float(value).is_integer() else round(float(value), 2) for value in bbox])


def text_lines(regions: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The regions labelled "line"; where there are none, those that are no larger unit (block, paragraph, page)."""
    regions = list(regions)
    lines = [region for region in regions if region["label"] == "line"]
    return lines or [region for region in regions if region["label"] not in ("block", "paragraph", "page")]


def validate_record(record: Mapping[str, Any]) -> None:
    """Check one record; any of its fields may be None or hold anything that the schema's type can.

    Raises:
        ValueError: naming the record and the first thing wrong with it: a box outside the picture or without
            area, an unknown kind, verdict or split, a refuted caption, an empty question or answer, a text region
        without text, a grounding answer that is not a box, no picture bytes, no size.
    """
    validate_texts(record)
    if not (record["image"] or {}).get("bytes"):
        raise ValueError(f"record {record['id']}: the image has no embedded bytes")


def validate_texts(record: Mapping[str, Any]) -> None:
    """As `validate_record`, for a record whose picture is somewhere else."""
    name = record["id"]
    if not name:
        raise ValueError("a record has an empty id; every record needs a unique one")
    if record["split"] not in SPLITS:
        raise ValueError(f"record {name}: split is {record['split']!r}, expected one of {SPLITS}")
    if not record["license"] or not record["source"]:
        raise ValueError(f"record {name}: source and license must both be given")
    if (record["width"] or 0) < 1 or (record["height"] or 0) < 1:
        raise ValueError(f"record {name}: width and height are {record['width']} and {record['height']} pixels")
    for item in record["regions"] or []:
        _validate_region(item or {}, record)
    for item in record["qa"] or []:
        _validate_qa(item or {}, record)


def _validate_region(item: Mapping[str, Any], record: Mapping[str, Any]) -> None:
    where = f"record {record['id']}: region {item.get('label')!r}"
    check_box(item.get("bbox"), record["width"], record["height"], where)
    if item["kind"] not in REGION_KINDS:
        raise ValueError(f"record {record['id']}: region kind is {item['kind']!r}, expected one of {REGION_KINDS}")
    if item["kind"] in TEXT_KINDS and not item["text"]:
        raise ValueError(f"record {record['id']}: a {item['kind']} region at {item['bbox']} has no text")
    if item.get("verdict") not in (None, *VERDICTS):
        raise ValueError(f"{where}: verdict is {item['verdict']!r}, expected one of {VERDICTS} or None")
    if item.get("verdict") == REFUTED and item["caption"] is not None:
        raise ValueError(f"{where}: its caption was refuted; leave such captions out (None) and keep the verdict")


def _validate_qa(item: Mapping[str, Any], record: Mapping[str, Any]) -> None:
    where = f"record {record['id']}: question {item.get('question')!r}"
    if not (item.get("question") or "").strip() or not item["kind"]:
        raise ValueError(f"{where}: the question and its kind must not be empty")
    if not item["answers"] or not all((answer or "").strip() for answer in item["answers"]):
        raise ValueError(f"{where}: needs at least one answer, and no empty ones; got {item['answers']!r}")
    if item["kind"] == "grounding":
        check_box(read_grounding_answer(item["answers"][0], where), record["width"], record["height"], where)


def read_grounding_answer(answer: str, where: str) -> Any:
    """What the answer of a "grounding" question holds: a box if all is well, see `check_box`.

    Raises:
        ValueError: it is no JSON; the message starts with `where`.
    """
    try:
        return json.loads(answer)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: the answer must be a JSON list [x1, y1, x2, y2], got {answer[:200]!r}") from error


def check_box(box: Any, width: int, height: int, where: str) -> None:
    """Raise a ValueError that starts with `where` unless `box` is four finite numbers with positive area inside
    (width, height).
    """
    if not isinstance(box, list | tuple) or len(box) != 4 or not all(isinstance(value, int | float) for value in box):
        raise ValueError(f"{where}: a box is four numbers x1, y1, x2, y2 in pixels, got {str(box)[:200]}")
    x1, y1, x2, y2 = box
    # Comparisons are false for NaN and exact for integers of any size.
    if not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height):
        raise ValueError(
            f"{where}: box {list(box)} must have positive area and lie inside the {width}x{height} picture"
        )
