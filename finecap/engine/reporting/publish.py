"""The finished dataset: parquet files by split, a card with figures, a gallery, and the upload.

    OUT/dataset/README.md                             the dataset card
    OUT/dataset/stats.json                            every figure of the card
    OUT/dataset/gallery.html                          some records, to look at
    OUT/dataset/charts/*.svg
    OUT/dataset/data/<split>-00000-of-00012.parquet   what `datasets.load_dataset` reads
    OUT/dataset/webdataset/<the same name>.tar        if the recipe asks for it

Pages of a file end where its content says, not after a fixed number of bytes (content-defined chunking). A Hub that
stores chunks then takes only what changed when a record in the middle gets a better caption.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from finecap.engine.passes.pack import COLUMNS
from finecap.engine.reporting.card import write_card
from finecap.engine.reporting.dataset_stats import dataset_stats
from finecap.engine.reporting.filter_report import write_filter_report
from finecap.engine.reporting.gallery import write_gallery
from finecap.engine.reporting.status import summarise
from finecap.engine.running.one_shard import WRITE_ROWS, Run
from finecap.files import claimed, committed_folder, link_or_copy, write_json
from finecap.shards.layout import split_file
from finecap.shards.tar_writer import export_webdataset

GALLERY_RECORDS = 48
# How often to look whether another process of the same run has finished publishing.
WAIT_SECONDS = 1.0


class Packed(NamedTuple):
    """A packed shard: its file and how many records of each split are in it."""

    path: Path
    splits: dict[str, int]


class Place(NamedTuple):
    """Where a record of the gallery lies; `draw` orders records as chance would."""

    draw: str
    path: Path
    row: int


def finish(run: Run) -> Path:
    """Once every shard is packed: the filter's report, the dataset folder, the upload if the recipe asks for it."""
    outputs = [[run.output(name, shard.name) for shard in run.shards] for name in ("ingest", "filter")]
    write_filter_report(*outputs, run.recipe.passes["filter"], run.store.out / "reports" / "filter.html")
    folder = publish(run)
    if repo_id := run.recipe.passes["pack"].push_to_hub:
        push(folder, repo_id)
    return folder


def publish(run: Run, out: Path | None = None) -> Path:
    """Write the dataset folder from the packed shards, whole or not at all; an older one is replaced.

    A shard whose records are all of one split is hard-linked: leave the files as they are, or copy them first.

    Args:
        out: the folder; `dataset` in the run's folder by default.

    Returns:
        The folder.

    Raises:
        ValueError: a shard is not packed yet; as StopRun: the disk is full.
    """
    out = out or run.store.out / "dataset"
    outputs = [run.output("pack", shard.name) for shard in run.shards]
    if missing := [path for path in outputs if not path.exists()]:
        raise ValueError(f"{len(missing)} of {len(outputs)} shards are not packed yet, the first is {missing[0]}")
    waited = False
    while True:
        with claimed(out) as mine:
            if mine:
                # Whoever waited finds what it wanted to write, unless the other one had another recipe.
                if not (waited and _is_published(run, out)):
                    with committed_folder(out) as aside:
                        _write_dataset(run, outputs, aside)
                return out
        waited = True
        time.sleep(WAIT_SECONDS)


def _is_published(run: Run, out: Path) -> bool:
    stats = out / "stats.json"
    return stats.is_file() and json.loads(stats.read_text(encoding="utf-8")).get("made_of") == _made_of(run)


def _made_of(run: Run) -> dict[str, Any]:
    """What a dataset is made of: the recipe's hash, and a hash of the names of the shards."""
    names = hashlib.sha256("\n".join(shard.name for shard in run.shards).encode()).hexdigest()
    return {"recipe": run.recipe.pass_key("pack"), "shards": names[:10]}


def _write_dataset(run: Run, outputs: list[Path], aside: Path) -> None:
    (aside / "data").mkdir()
    packed, chosen = _survey(outputs, run.recipe.seed)
    files = _write_data(packed, aside)
    stats = {"made_of": _made_of(run), "images": image_stats(run), **dataset_stats(outputs, aside / ".scratch")}
    shutil.rmtree(aside / ".scratch", ignore_errors=True)
    write_json(aside / "stats.json", stats)
    write_card(run, stats, aside)
    write_gallery(
        _read_places(chosen),
        aside / "gallery.html",
        title="Some of the records",
        note=f"{len(chosen)} of {sum(sum(one.splits.values()) for one in packed):,} records, drawn by chance.",
    )
    if run.recipe.passes["pack"].webdataset:
        export_webdataset(files, aside / "webdataset")


def _survey(outputs: list[Path], seed: int) -> tuple[list[Packed], list[Place]]:
    """The splits of each shard, and the records of the gallery in the order of the dataset."""
    packed: list[Packed] = []

    def draws() -> Iterator[Place]:
        for path in outputs:
            table = pq.read_table(path, columns=["id", "split"])
            packed.append(Packed(path, dict(Counter(table["split"].to_pylist()))))
            for row, name in enumerate(table["id"].to_pylist()):
                yield Place(hashlib.sha256(f"{seed}|gallery|{name}".encode()).hexdigest(), path, row)

    chosen = heapq.nsmallest(GALLERY_RECORDS, draws())
    return packed, sorted(chosen, key=lambda place: (place.path, place.row))


def _write_data(packed: list[Packed], folder: Path) -> list[Path]:
    """One file for each shard and split; the files in order."""
    totals = Counter(split for one in packed for split in one.splits)
    numbers: Counter[str] = Counter()
    files = []
    for one in packed:
        paths = {}
        for split in one.splits:
            paths[split] = split_file(folder, split, numbers[split], totals[split])
            numbers[split] += 1
        if len(paths) == 1:
            link_or_copy(one.path, *paths.values())
        else:
            _split_file(one.path, paths)
        files += paths.values()
    return sorted(files)


def _split_file(source: Path, paths: dict[str, Path]) -> None:
    with ExitStack() as stack:
        writers = {split: stack.enter_context(record_writer(path)) for split, path in paths.items()}
        for batch in stack.enter_context(pq.ParquetFile(source)).iter_batches(WRITE_ROWS):
            table = pa.Table.from_batches([batch])
            for split, writer in writers.items():
                part = table.filter(pc.field("split") == split)
                if part.num_rows:
                    writer.write_table(part.cast(COLUMNS))


def record_writer(path: Path, content_defined: bool = True) -> pq.ParquetWriter:
    """A writer of records; `content_defined` says where pages end, see the module."""
    return pq.ParquetWriter(
        path, COLUMNS, compression="zstd", use_content_defined_chunking=content_defined, write_page_index=True
    )


def _read_places(places: list[Place]) -> Iterator[dict[str, Any]]:
    for place in places:
        with pq.ParquetFile(place.path) as file:
            row = place.row
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if row < rows:
                    yield file.read_row_group(group).slice(row, 1).to_pylist()[0]
                    break
                row -= rows


def image_stats(run: Run) -> dict[str, Any]:
    """Where the images went and what was paid for them.

    Returns:
        `images` = `records` + the sum of `rejects` ({pass: {kind: how many}}); `counters` ({pass: {name: figure}});
        `left_out`, shards whose images are in neither; `requests`, `prompt_tokens`, `completion_tokens`.
    """
    summary = summarise(run)
    rejects = {one.name: dict(one.rejects) for one in summary.passes}
    counters = {one.name: dict(one.counters) for one in summary.passes}
    return {
        "images": summary.images,
        "records": summary.records,
        "rejects": {name: kinds for name, kinds in rejects.items() if kinds},
        "counters": {name: figures for name, figures in counters.items() if figures},
        "left_out": summary.left_out,
        "requests": summary.requests,
        "prompt_tokens": summary.prompt_tokens,
        "completion_tokens": summary.completion_tokens,
    }


def push(folder: Path, repo_id: str) -> str:
    """Upload a published dataset to the Hub; the repository is made, private, if there is none. Files of an earlier
    upload that the dataset no longer has are removed, and what the Hub has already is not sent again.

    Args:
        folder: what `publish` wrote.
        repo_id: "name/dataset".

    Returns:
        The URL.

    Raises:
        ValueError: no dataset in the folder, a bad name, no token, offline, or what the Hub answers.
    """
    from huggingface_hub import HfApi, constants, get_token

    if not (folder / "README.md").is_file() or not (folder / "data").is_dir():
        raise ValueError(f"{folder}: no published dataset is here (README.md or data/ is missing)")
    if constants.HF_HUB_OFFLINE:
        raise ValueError("HF_HUB_OFFLINE is set; unset it to upload the dataset")
    if get_token() is None:
        raise ValueError(
            "no token for the Hub: set HF_TOKEN, or log in with `hf auth login`, with a token that may write"
        )
    api = HfApi()
    try:
        url = api.create_repo(repo_id, repo_type="dataset", private=True, exist_ok=True)
        api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            repo_type="dataset",
            commit_message="FineCap records",
            delete_patterns=["data/*", "webdataset/*", "charts/*"],
        )
    except Exception as error:  # lost connections are of whichever HTTP library the Hub's client uses
        raise ValueError(f"{repo_id}: the upload failed, run the same command again to go on: {error}") from error
    return str(url)
