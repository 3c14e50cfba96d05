"""Export the questions of a FineCap split as lmms-eval tasks: parquet rows and the YAML beside them.

The rows have the schemas of the Hub's DocVQA, ChartQA and RefCOCO copies that lmms-eval reads, so the built-in
`docvqa_val`, `chartqa` and `refcoco_bbox_rec_*` run over them as well. The folder serves lmms-eval's own command line:

    python -m lmms_eval --model finevit_vl --model_args pretrained=MODEL --include_path FOLDER --tasks finevit_doc
"""

import importlib.util
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import pyarrow.parquet as pq
from datasets import Dataset

from finecap.files import committed, write_text
from finecap.shards.layout import needed_split_files
from finevit_eval.questions.kinds import KINDS

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
    kinds: Sequence[str] = tuple(KINDS),
    split: str = "test",
    limit: int | None = None,
    seed: int = 0,
) -> BuiltTasks:
    """Write one lmms-eval task per question kind.

    Args:
        data_dir: A folder of FineCap records in the Hub's layout (`data/<split>-*.parquet`).
        out: Gets `finevit_<kind>.parquet` and `finevit_<kind>.yaml`.
        kinds: Of `finevit_eval.questions.kinds.KINDS`.
        split: The split whose questions are asked.
        limit: Most questions of a kind.
        seed: The questions are shuffled with it, so that the first n are a fair sample of the split.

    Raises:
        ValueError: The folder holds no such split, or a kind has no usable question.
    """
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
    with committed(target) as aside:
        Dataset.from_list(rows, features=KINDS[kind].features).to_parquet(aside)
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
    fields = KINDS[kind].fields(record, item, f"{record['id']}/{index}", split)
    return {"image": record["image"], "question": item["question"], **fields}


def _write_yaml(kind: str, out: Path) -> None:
    """Fill in where the installed lmms-eval keeps its tasks: an `include:` takes paths only."""
    spec = importlib.util.find_spec("lmms_eval")
    if spec is None or not spec.submodule_search_locations:
        raise ValueError("lmms-eval is not installed; install the extra: pip install 'finevit[eval]'.")
    tasks = Path(next(iter(spec.submodule_search_locations))) / "tasks"
    name = f"{task_name(kind)}.yaml"
    text = files("finevit_eval.questions.tasks").joinpath(name).read_text(encoding="utf-8")
    write_text(out / name, Template(text).substitute(LMMS_EVAL_TASKS=tasks.as_posix()))
