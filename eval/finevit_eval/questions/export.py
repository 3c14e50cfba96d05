"""Export the questions of a FineCap split as lmms-eval tasks: parquet rows and the YAML beside them.

The rows have the schemas of the Hub's DocVQA, ChartQA and RefCOCO copies that lmms-eval reads, so the built-in
`docvqa_val`, `chartqa` and `refcoco_bbox_rec_*` run over them as well. The folder serves lmms-eval's own command line:

    python -m lmms_eval --model finevit_vl --model_args pretrained=MODEL --include_path FOLDER --tasks finevit_doc
"""

import importlib.util
import json
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import pyarrow.parquet as pq
from datasets import Dataset, Features, Image, Value
from datasets import Sequence as SequenceFeature

from finecap.shards.layout import needed_split_files

TEXT = Value("string")
FEATURES: dict[str, Features] = {
    "doc": Features(
        {
            "questionId": TEXT,
            "question": TEXT,
            "image": Image(),
            "answers": SequenceFeature(TEXT),
            "docId": TEXT,
            "data_split": TEXT,
        }
    ),
    "chart": Features({"question_id": TEXT, "type": TEXT, "question": TEXT, "answer": TEXT, "image": Image()}),
    "grounding": Features(
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
    "easyvqa": Features({"question_id": TEXT, "question": TEXT, "answer": TEXT, "image": Image()}),
}
KINDS = tuple(FEATURES)
READ_COLUMNS = ("id", "image", "width", "height", "qa")


@dataclass(frozen=True)
class BuiltTasks:
    """What was exported.

    Attributes:
        folder: For lmms-eval's `--include_path`.
        num_rows: Kind -> number of exported questions.
        skipped: Questions that could not be used, as "id: reason".
    """

    folder: Path
    num_rows: dict[str, int]
    skipped: list[str]


def task_name(kind: str) -> str:
    """The lmms-eval task of a question kind: "doc" -> "finevit_doc"."""
    return f"finevit_{kind}"


def build_tasks(
    data_dir: Path,
    out: Path,
    kinds: Sequence[str] = KINDS,
    split: str = "test",
    limit: int | None = None,
    seed: int = 0,
) -> BuiltTasks:
    """Write one lmms-eval task per question kind.

    Args:
        data_dir: A folder of FineCap records in the Hub's layout (`data/<split>-*.parquet`).
        out: Gets `finevit_<kind>.parquet` and `finevit_<kind>.yaml`.
        kinds: Of "doc", "chart", "grounding", "easyvqa".
        split: The split whose questions are asked.
        limit: At most so many questions per kind.
        seed: The questions are shuffled with it, so that the first n are a fair sample of the split.

    Raises:
        ValueError: The folder holds no such split, a kind is unknown, or a kind has no usable question.
    """
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown or not kinds:
        raise ValueError(f"Unknown task kinds {unknown}; expected some of {', '.join(KINDS)}.")
    shards = needed_split_files(data_dir, split)
    out.mkdir(parents=True, exist_ok=True)
    skipped: list[str] = []
    counts = {kind: _build_kind(kind, shards, out, split, limit, seed, skipped) for kind in kinds}
    return BuiltTasks(out, counts, skipped)


def _build_kind(
    kind: str, shards: list[Path], out: Path, split: str, limit: int | None, seed: int, skipped: list[str]
) -> int:
    keys = list(_question_keys(kind, shards))
    random.Random(seed).shuffle(keys)
    rows = _read_rows(kind, shards, keys[:limit], split, skipped)
    if not rows:
        raise ValueError(f"No usable question of kind {kind!r} in split {split!r} ({len(keys)} seen); drop that task.")
    target = out / f"{task_name(kind)}.parquet"
    aside = target.with_suffix(".parquet.tmp")
    Dataset.from_list(rows, features=FEATURES[kind]).to_parquet(aside)
    os.replace(aside, target)
    _write_yaml(kind, out)
    return len(rows)


def _question_keys(kind: str, shards: list[Path]) -> Iterator[tuple[int, int, int]]:
    """Yield (shard, row, qa item) of every question of a kind, without reading a picture."""
    for shard, path in enumerate(shards):
        for row, items in enumerate(pq.read_table(path, columns=["qa"])["qa"].to_pylist()):
            yield from ((shard, row, index) for index, item in enumerate(items or []) if item["kind"] == kind)


def _read_rows(
    kind: str, shards: list[Path], keys: list[tuple[int, int, int]], split: str, skipped: list[str]
) -> list[dict[str, Any]]:
    wanted = {(shard, row) for shard, row, _ in keys}
    records: dict[tuple[int, int], dict[str, Any]] = {}
    for shard in sorted({shard for shard, _ in wanted}):
        rows = sorted(row for s, row in wanted if s == shard)
        table = pq.read_table(shards[shard], columns=list(READ_COLUMNS)).take(rows)
        records.update(((shard, row), record) for row, record in zip(rows, table.to_pylist(), strict=True))
    exported = []
    for shard, row, index in keys:
        record = records[(shard, row)]
        try:
            exported.append(_export(kind, record, index, split))
        except ValueError as error:
            skipped.append(f"{record['id']}: {error}")
    return exported


def _export(kind: str, record: dict[str, Any], index: int, split: str) -> dict[str, Any]:
    item = record["qa"][index]
    if not item["answers"]:
        raise ValueError(f"qa item {index} has no answer")
    question_id = f"{record['id']}/{index}"
    shared = {"image": record["image"], "question": item["question"]}
    if kind == "doc":
        names = {"questionId": question_id, "docId": record["id"], "data_split": split}
        return {**shared, **names, "answers": item["answers"]}
    if kind == "chart":
        # ChartQA's two halves are "human_test" and "augmented_test"; generated questions belong to the second.
        return {**shared, "question_id": question_id, "type": "augmented_test", "answer": item["answers"][0]}
    if kind == "easyvqa":
        return {**shared, "question_id": question_id, "answer": item["answers"][0]}
    return {**shared, "question_id": question_id, **_grounding_fields(record, item)}


def _grounding_fields(record: dict[str, Any], item: dict[str, Any]) -> dict[str, Any]:
    try:
        x1, y1, x2, y2 = (float(value) for value in json.loads(item["answers"][0]))
    except (json.JSONDecodeError, TypeError, ValueError) as error:
        raise ValueError(f"the box {item['answers'][0]!r} is not JSON of four numbers") from error
    if not (0 <= x1 < x2 <= record["width"] and 0 <= y1 < y2 <= record["height"]):
        raise ValueError(f"the box {[x1, y1, x2, y2]} is empty or outside {record['width']}x{record['height']}")
    return {
        "answer": [item["question"]],
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "file_name": record["id"],
        "image_width": record["width"],
        "image_height": record["height"],
    }


def _write_yaml(kind: str, out: Path) -> None:
    """Fill in where the installed lmms-eval keeps its tasks: an `include:` takes paths only."""
    spec = importlib.util.find_spec("lmms_eval")
    if spec is None or not spec.submodule_search_locations:
        raise ValueError("lmms-eval is not installed; install the extra: pip install 'finevit[eval]'.")
    tasks = Path(next(iter(spec.submodule_search_locations))) / "tasks"
    name = f"{task_name(kind)}.yaml"
    text = files("finevit_eval.questions.tasks").joinpath(name).read_text(encoding="utf-8")
    aside = out / f"{name}.tmp"
    aside.write_text(Template(text).substitute(LMMS_EVAL_TASKS=tasks.as_posix()), encoding="utf-8")
    os.replace(aside, out / name)
