"""Pass 11: FineCap records, in parquet with content-defined chunking."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from finecap.engine.contract import Context, Row
from finecap.engine.counters import NOTHING_TO_SAY
from finecap.records import Provenance, Record, Region, validate_record
from finecap.verdicts import REFUTED

_TEXT = {"dtype": "string", "_type": "Value"}


def _texts(*names: str) -> list[tuple[str, pa.DataType]]:
    return [(name, pa.string()) for name in names]


def _features() -> dict[str, Any]:
    """The columns as `datasets` describes them in the schema's metadata."""
    whole = {"dtype": "int32", "_type": "Value"}
    real = {"dtype": "float32", "_type": "Value"}
    region = {
        "bbox": {"feature": real, "length": 4, "_type": "List"},
        **dict.fromkeys(("kind", "label", "caption", "text"), _TEXT),
        "score": real,
        "verdict": _TEXT,
    }
    texts = {"feature": _TEXT, "_type": "List"}
    caption = dict.fromkeys(("style", "text", "captioner"), _TEXT)
    return {
        "id": _TEXT,
        "image": {"_type": "Image"},
        "width": whole,
        "height": whole,
        **dict.fromkeys(("source", "license", "split", "global_caption", "captioner"), _TEXT),
        "captions": {"feature": caption, "_type": "List"},
        "regions": {"feature": region, "_type": "List"},
        "qa": {"feature": {"question": _TEXT, "answers": texts, "kind": _TEXT}, "_type": "List"},
        "provenance": {**dict.fromkeys(("phrases", "boxes", "ocr"), _TEXT), "checks": texts, "flags": texts},
    }


# The arrow schema of finecap.features.FINECAP_FEATURES (a test holds them equal), without the seconds that importing
# `datasets` costs in every worker.
COLUMNS = pa.schema(
    [
        ("id", pa.string()),
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("width", pa.int32()),
        ("height", pa.int32()),
        *_texts("source", "license", "split", "global_caption", "captioner"),
        ("captions", pa.list_(pa.struct(_texts("style", "text", "captioner")))),
        (
            "regions",
            pa.list_(
                pa.struct(
                    [
                        ("bbox", pa.list_(pa.float32(), 4)),
                        *_texts("kind", "label", "caption", "text"),
                        ("score", pa.float32()),
                        ("verdict", pa.string()),
                    ]
                )
            ),
        ),
        (
            "qa",
            pa.list_(
                pa.struct([("question", pa.string()), ("answers", pa.list_(pa.string())), ("kind", pa.string())])
            ),
        ),
        (
            "provenance",
            pa.struct(
                [
                    *_texts("phrases", "boxes", "ocr"),
                    ("checks", pa.list_(pa.string())),
                    ("flags", pa.list_(pa.string())),
                ]
            ),
        ),
    ],
    metadata={"huggingface": json.dumps({"info": {"features": _features()}})},
)


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Options:
    """Options of the pass.

    Attributes:
        webdataset: write tar archives beside the parquet files.
        push_to_hub: dataset repository to upload to, after everything else.
    """

    webdataset: bool = False
    push_to_hub: str | None = None


def run(rows: Iterator[Row], options: Options, context: Context) -> Iterable[Row]:
    """One record for each live row that says anything: a caption or a region. The others are counted as
    `NOTHING_TO_SAY`, so records and that figure add up to the rows of the pass.

    Raises:
        ValueError: a record breaks the schema's rules, which is a bug of an earlier pass.
    """
    for row in rows:
        record = as_record(row, context.counters)
        if not record["global_caption"] and not record["captions"] and not record["regions"]:
            context.counters[NOTHING_TO_SAY] += 1
            continue
        validate_record(record)
        context.counters["records"] += 1
        context.counters["regions"] += len(record["regions"])
        yield dict(record)


def as_record(row: Row, counters: Counter[str]) -> Record:
    """The FineCap record of what all passes found out about a picture.

    Args:
        row: the columns that the pass reads; those of passes that did not run are None.
        counters: what is left out is counted here.
    """
    regions = [*_objects(row, counters), *_text_regions(row)]
    inside = [region for region in regions if _inside(region["bbox"], row["width"], row["height"])]
    counters["boxes dropped: not inside the picture"] += len(regions) - len(inside)
    return {
        "id": row["id"],
        "image": {"bytes": row["image"], "path": None},
        "width": row["width"],
        "height": row["height"],
        "source": row["source"],
        "license": row["license"],
        "split": row["split"],
        "global_caption": row["global_caption"] or None,
        "captioner": row["captioner"],
        "captions": [caption for caption in row["captions"] or [] if caption["text"].strip()],
        "regions": inside,
        "qa": [],
        "provenance": _provenance(row),
    }


def _objects(row: Row, counters: Counter[str]) -> Iterator[Region]:
    """Of an object whose caption was refuted, box, label and verdict stay."""
    objects = row["objects"] or []
    kept = range(len(objects)) if row["kept_objects"] is None else row["kept_objects"]
    captions = {item["object"]: item for item in row["local_captions"] or []}
    verdicts = {item["object"]: item for item in row["verdicts"] or []}
    for index in kept:
        item, words, verdict = objects[index], captions.get(index, {}), verdicts.get(index, {})
        caption = words.get("caption")
        if verdict.get("verdict") == REFUTED:
            counters[f"local captions left out: {verdict['reason'].split(':')[0]}"] += 1
            caption = None
        yield {
            "bbox": item["bbox"],
            "kind": "object",
            "label": item["label"],
            "caption": caption,
            "text": words.get("text"),
            "score": item["score"],
            "verdict": verdict.get("verdict"),
        }


def _text_regions(row: Row) -> Iterator[Region]:
    """Lines and words. Only lines are read back."""
    kind = "document_text" if row["branch"] == "document" else "text"
    verdicts = {item["line"]: item["verdict"] for item in row["read_back"] or []}
    for item in row["texts"] or []:
        yield {
            "bbox": item["bbox"],
            "kind": kind,
            "label": item["level"],
            "caption": None,
            "text": item["text"],
            "score": item["score"],
            "verdict": verdicts.get(item["line"]) if item["level"] == "line" else None,
        }


def _inside(bbox: Sequence[float], width: int, height: int) -> bool:
    x1, y1, x2, y2 = bbox
    return 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height


def _provenance(row: Row) -> Provenance:
    return {
        "phrases": row["phrase_extractor"],
        "boxes": row["detector"],
        "ocr": row["ocr_engine"],
        "checks": row["checks"] or [],
        "flags": row["flags"] or [],
    }
