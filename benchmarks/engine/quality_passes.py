"""Pictures of the embedded corpus through the engine's passes, for benchmarks/engine/quality.py: functions that take
the place of passes, by the truth that lies beside the run, and the score of boxes against exact ones.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from finecap.boxes import box_ious, format_box
from finecap.engine.contract import Context, Row
from finecap.engine.recipe import recipe_from
from finecap.engine.running.one_shard import Run, run_reduce, run_shard
from finecap.engine.running.opening import open_run
from finecap.files import write_json
from finecap.pictures import ANY_SIZE, open_rgb

# Nothing of the corpus is to be filtered: its small levels are below FineViT's limits.
OPEN = {
    "ingest": {"source": "corpus", "license": "see corpus"},
    "filter": {"function": "benchmarks.engine.quality_passes:keep_all"},
    "dedup": {"max_distance": 0},
}


def keep_all(rows: Iterator[Row], options: Any, context: Context) -> Iterator[Row]:
    """In place of the filter pass."""
    kinds = truth_of(context)
    for row in rows:
        branch = "photo" if kinds[row["key"]]["kind"] == "scene" else "document"
        yield {"key": row["key"], "branch": branch, "reject": None}


def corpus_captions(rows: Iterator[Row], options: Any, context: Context) -> Iterator[Row]:
    """In place of the recaption pass; the captions of a picture are numbered."""
    truth = truth_of(context)
    for row in rows:
        said = truth[row["key"]]["captions"]
        captions = [{"style": str(number), "text": text, "captioner": "corpus"} for number, text in enumerate(said)]
        yield {
            "key": row["key"],
            "captions": captions,
            "global_caption": said[0],
            "captioner": "corpus",
            "reject": None,
        }


def given_boxes(rows: Iterator[Row], options: Any, context: Context) -> Iterator[Row]:
    """In place of the boxes pass: the boxes of the truth."""
    truth = truth_of(context)
    for row in rows:
        objects = [
            {"bbox": said["bbox"], "label": said["label"], "phrase": said["label"], "score": None}
            for said in truth[row["key"]]["local"]
        ]
        yield {"key": row["key"], "objects": objects, "detector": "corpus", "reject": None}


def nano_local_captions(rows: Iterator[Row], options: Any, context: Context) -> Iterator[Row]:
    """In place of the local captions pass: FineViT-VL nano, asked in the words of its training."""
    from finevit.ask import ask

    for row in rows:
        image = open_rgb(row["image"], ANY_SIZE)
        captions = []
        for index in row["kept_objects"]:
            box = format_box(row["objects"][index]["bbox"], row["width"], row["height"])
            question = f"Describe {box}."
            caption = ask(context.models["nano"], image, question, max_new_tokens=48)
            captions.append({"object": index, "caption": caption, "text": None, "captioner": "finevit-vl-nano"})
        yield {"key": row["key"], "local_captions": captions, "reject": None}


def corpus_local_captions(rows: Iterator[Row], options: Any, context: Context) -> Iterator[Row]:
    """In place of the local captions pass: what the truth says of the object in the box, right or planted."""
    truth = truth_of(context)
    for row in rows:
        local = truth[row["key"]]["local"]
        captions = [
            {"object": index, "caption": said["caption"], "text": None, "captioner": "corpus"}
            for index in row["kept_objects"]
            for said in local
            if said["bbox"] == row["objects"][index]["bbox"]
        ]
        yield {"key": row["key"], "local_captions": captions, "reject": None}


def truth_of(context: Context) -> dict[str, Any]:
    return context.load("truth", lambda: json.loads((context.out.parent / "truth.json").read_text()))


def run_passes(
    folder: Path, records: dict[str, Row], sections: dict[str, Any], models: dict[str, dict[str, Any]], seed: int
) -> dict[str, list[Row]]:
    """The rows that each pass wrote.

    Args:
        records: by key, what the truth is; `image` is left out of truth.json.
        models: handed to a pass, by its name.
    """
    (folder / "in").mkdir(parents=True)
    for key, record in records.items():
        (folder / "in" / key).write_bytes(record["image"])
    bare = {key: {name: value for name, value in record.items() if name != "image"} for key, record in records.items()}
    write_json(folder / "truth.json", bare)
    recipe = recipe_from({**OPEN, **sections, "pack": False, "seed": seed, "rows_per_shard": 10_000})
    run = open_run(recipe, folder / "in", folder / "out")
    return {step.name: run_one(run, step.name, models.get(step.name, {})) for step in recipe.enabled()}


def run_one(run: Run, name: str, models: dict[str, Any]) -> list[Row]:
    run_reduce(run, name)
    (shard,) = run.shards
    run_shard(run, name, shard, dict(models))
    return pq.read_table(run.output(name, shard.name)).to_pylist()


def read_before(rows: Iterator[Row], options: Any, context: Context) -> Iterator[Row]:
    """In place of the OCR pass: what it read in part 1."""
    texts = context.load("texts", lambda: json.loads((context.out.parents[1] / "texts.json").read_text()))
    for row in rows:
        yield {"key": row["key"], "texts": texts[row["key"]], "ocr_engine": "part 1", "reject": None}


def is_middle_in(inner: Sequence[float], box: Sequence[float]) -> bool:
    x, y = (inner[0] + inner[2]) / 2, (inner[1] + inner[3]) / 2
    return box[0] <= x <= box[2] and box[1] <= y <= box[3]


def box_figures(exact: Sequence[Sequence[Any]], found: Sequence[Sequence[Any]]) -> dict[str, float]:
    """Of all exact boxes, how many are hit at an IoU, and how many have the middle of a found box in them."""
    best, middles = [], []
    for boxes, others in zip(exact, found, strict=True):
        for box in boxes:
            best.append(float(box_ious(np.array(box), np.array(others)).max()) if len(others) else 0.0)
            middles.append(any(is_middle_in(other, box) for other in others))
    values = np.array(best)
    return {
        "n": len(best),
        "recall@0.3": round(float((values >= 0.3).mean()), 4),
        "recall@0.5": round(float((values >= 0.5).mean()), 4),
        "recall@0.75": round(float((values >= 0.75).mean()), 4),
        "mean_iou": round(float(values.mean()), 4),
        "middle_in_box": round(float(np.mean(middles)), 4),
    }
