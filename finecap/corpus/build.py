"""Building a corpus: parquet shards that `datasets.load_dataset(folder)` reads, by all cores, resumable, without
doubled rows.

A shard is a pure function of the configuration and its number, so any process may write it at any time and the result
is the same. A finished shard is a file under its final name (written aside, then renamed); an interrupted build simply
skips those.
"""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import random
import threading
import time
from array import array
from bisect import bisect_right
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from finecap.corpus import card, easyvqa, gallery
from finecap.corpus.levels import level_of
from finecap.features import FINECAP_FEATURES
from finecap.files import claimed, committed, write_text
from finecap.records import Record, validate_record
from finecap.shards.layout import SPLITS, split_file

KINDS = ("doc", "chart", "scene", "easyvqa")
SPLIT_SHARES = {"train": 0.9, "validation": 0.03, "test": 0.07}
CONFIG_FILE = "corpus.json"


@dataclass(frozen=True)
class CorpusConfig:
    """Everything that decides what a corpus holds; stored beside it. `rows[split][kind]` are the resolved numbers of
    rows.
    """

    size: int
    seed: int
    difficulty: str
    kinds: dict[str, float]
    split_shares: dict[str, float]
    rows: dict[str, dict[str, int]]
    rows_per_shard: int


@dataclass(frozen=True)
class BuildResult:
    """What a build did: rows in the corpus, rows written by this call, and this call's speed over all workers."""

    out: Path
    rows: int
    rows_written: int
    rows_per_second: float


def generate(kind: str, index: int, seed: int, split: str, difficulty: str) -> Record:
    """Record number `index` of one kind and split: a pure function of its arguments."""
    from finecap.corpus.charts import chart as charts
    from finecap.corpus.documents import document as docs
    from finecap.corpus.scenes import scene as scenes

    generators = {
        "doc": docs.generate,
        "chart": charts.generate,
        "scene": scenes.generate,
        "easyvqa": easyvqa.generate,
    }
    return generators[kind](index, seed, split, difficulty)


def resolve(
    size: int,
    seed: int,
    difficulty: str,
    kinds: Mapping[str, float] | None,
    split_shares: Mapping[str, float] | None,
) -> CorpusConfig:
    """Turn a request into exact numbers of rows; easy-vqa's share is capped at the pictures it has and the rest goes
    to the others.

    Raises:
        ValueError: for a size, weight or share that cannot be met.
    """
    kinds = dict(kinds if kinds is not None else dict.fromkeys(KINDS, 1.0))
    shares = dict(split_shares if split_shares is not None else SPLIT_SHARES)
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown:
        raise ValueError(f"unknown kinds {', '.join(unknown)}; expected some of {', '.join(KINDS)}")
    if any(weight < 0 for weight in kinds.values()) or sum(kinds.values()) <= 0:
        raise ValueError(f"kinds are weights: none may be negative and one must be positive, got {kinds}")
    if (
        set(shares) != set(SPLITS)
        or any(share < 0 for share in shares.values())
        or abs(sum(shares.values()) - 1) > 1e-6
    ):
        raise ValueError(
            f"split shares must be given for {', '.join(SPLITS)}, not negative and sum to 1, got {shares}"
        )
    weights = {kind: kinds[kind] for kind in KINDS if kinds.get(kind, 0) > 0}
    if size < len(weights) * len(SPLITS):
        raise ValueError(
            f"size is {size}, too small for {len(weights)} kinds in {len(SPLITS)} splits; ask for at least "
            f"{len(weights) * len(SPLITS)} rows"
        )
    splits = apportion(size, shares)
    rows = {split: kind_rows(split, splits[split], weights) for split in SPLITS}
    return CorpusConfig(size, seed, difficulty, weights, shares, rows, level_of(difficulty).rows_per_shard)


def apportion(total: int, weights: Mapping[str, float]) -> dict[str, int]:
    """Whole numbers in proportion to the weights that sum to `total` (largest remainders; ties go to the earlier
    key).
    """
    scale = total / sum(weights.values())
    counts = {key: int(weight * scale) for key, weight in weights.items()}
    by_remainder = sorted(weights, key=lambda key: counts[key] - weights[key] * scale)
    for key in by_remainder[: total - sum(counts.values())]:
        counts[key] += 1
    return counts


def kind_rows(split: str, total: int, weights: Mapping[str, float]) -> dict[str, int]:
    """Rows of each kind in a split."""
    counts = apportion(total, weights)
    available = easyvqa.CAPACITY[split]
    if counts.get("easyvqa", 0) > available:
        others = {kind: weight for kind, weight in weights.items() if kind != "easyvqa"}
        if not others:
            raise ValueError(
                f"easy-vqa has {available} {split} pictures, {total} were asked for; ask for fewer or add another kind"
            )
        counts = {**apportion(total - available, others), "easyvqa": available}
    return counts


def plan(config: CorpusConfig, split: str, start: int = 0, stop: int | None = None) -> list[tuple[str, int]]:
    """(kind, index) of rows `start` to `stop` of a split, mixed by the seed."""
    kinds, counts = zip(*config.rows[split].items(), strict=True)
    edges = list(accumulate(counts, initial=0))
    places = []
    for row in mixed_rows(f"{config.seed}|plan|{split}", edges[-1])[start:stop]:
        kind = bisect_right(edges, row) - 1
        places.append((kinds[kind], row - edges[kind]))
    return places


@functools.lru_cache(maxsize=len(SPLITS))
def mixed_rows(seed: str, count: int) -> array[int]:
    """The numbers below `count` in a random order; kept, for every shard of a split needs a piece of it."""
    rows = list(range(count))
    random.Random(seed).shuffle(rows)
    return array("Q", rows)


def shards(config: CorpusConfig) -> list[tuple[str, int, int]]:
    """(split, shard, shards in the split) of the whole corpus."""
    found = []
    for split in SPLITS:
        count = -(-sum(config.rows[split].values()) // config.rows_per_shard)
        found += [(split, shard, count) for shard in range(count)]
    return found


def shard_rows(config: CorpusConfig, split: str, shard: int) -> int:
    """Number of rows of a shard."""
    return min(config.rows_per_shard, sum(config.rows[split].values()) - shard * config.rows_per_shard)


def write_shard(config: CorpusConfig, out: Path, split: str, shard: int, count: int) -> int:
    """Make one shard and put it under its final name; returns its number of rows."""
    start = shard * config.rows_per_shard
    records = []
    for kind, index in plan(config, split, start, start + config.rows_per_shard):
        record = generate(kind, index, config.seed, split, config.difficulty)
        validate_record(record)
        records.append(record)
    table = pa.Table.from_pylist(records, schema=FINECAP_FEATURES.arrow_schema)
    # The worker of a build that was just killed may still be at it.
    with committed(split_file(out, split, shard, count), f".{os.getpid()}") as aside:
        pq.write_table(table, aside, row_group_size=100)
    return len(records)


def build_corpus(
    out: Path,
    size: int,
    seed: int = 0,
    difficulty: str = "nano",
    kinds: Mapping[str, float] | None = None,
    workers: int | None = None,
    split_shares: Mapping[str, float] | None = None,
    report: Callable[[str], None] = print,
) -> BuildResult:
    """Build a corpus of `size` rows into the folder `out`, or finish one that was interrupted.

    Args:
        kinds: weights of "doc", "chart", "scene", "easyvqa"; alike if not given.
        workers: processes; one for each core this process may use if not given.
        split_shares: share of the rows of each split; `SPLIT_SHARES` if not given.
        report: is called with a line of progress for every finished shard, from the second on with the speed.

    Raises:
        ValueError: if the request cannot be met, or `out` holds a corpus of another configuration, or another build is
            at work there.
        StopRun: the disk is full or cannot be written.
    """
    out = Path(out)
    config = resolve(size, seed, difficulty, kinds, split_shares)
    workers = available_cores() if workers is None else workers
    if workers < 1:
        raise ValueError(f"workers is {workers}, expected at least 1")
    with claimed(out / CONFIG_FILE) as mine:
        if not mine:
            raise ValueError(f"{out}: another build is at work in this folder; wait for it, or choose another folder")
        check_folder(out, config)
        for left_over in (out / "data").glob(".*.tmp"):
            left_over.unlink(missing_ok=True)
        todo = [item for item in shards(config) if not split_file(out, *item).exists()]
        start = time.perf_counter()
        written = write_shards(config, out, todo, workers, report)
        seconds = time.perf_counter() - start
        pictures = gallery.write_galleries(out)
        card.write_card(out, asdict(config))
    report(f"corpus: {size} rows in {out}; look at {', '.join(str(path) for path in pictures)}")
    return BuildResult(out, size, written, written / seconds if written else 0.0)


def available_cores() -> int:
    """Cores that this process may use, where the system tells, else all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def write_shards(
    config: CorpusConfig,
    out: Path,
    todo: list[tuple[str, int, int]],
    workers: int,
    report: Callable[[str], None],
) -> int:
    """Write the missing shards with a pool of processes; returns the number of rows written."""
    first, start, written, done = 0, 0.0, 0, 0
    pending = sum(shard_rows(config, *item[:2]) for item in todo)
    with ProcessPoolExecutor(
        min(workers, max(len(todo), 1)), mp_context=start_method(), initializer=die_with_parent
    ) as pool:
        futures = [pool.submit(write_shard, config, out, *item) for item in todo]
        try:
            for future in as_completed(futures):
                written, done = written + future.result(), done + 1
                line = f"corpus: {done}/{len(todo)} shards, {written}/{pending} rows"
                if done == 1:  # the seconds before it went into starting the workers, and foretell nothing
                    first, start = written, time.perf_counter()
                else:
                    speed = (written - first) / (time.perf_counter() - start)
                    line += f", {speed:.0f} rows/s, {(pending - written) / speed:.0f} s left"
                report(line)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return written


def start_method() -> multiprocessing.context.BaseContext:
    """A fork server that has the heavy imports behind it where there is one (safe beside the threads of torch), else
    fresh processes.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [__name__, "finecap.corpus.charts.chart", "finecap.corpus.documents.document", "finecap.corpus.scenes.scene"]
    )
    return context


def die_with_parent() -> None:
    """Let a worker end when the build is killed; it would otherwise wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def check_folder(out: Path, config: CorpusConfig) -> None:
    """Write the configuration beside the shards, or check that the one that is there is the same."""
    path = out / CONFIG_FILE
    text = json.dumps(asdict(config), indent=2, sort_keys=True)
    if not path.exists():
        write_text(path, text)
    elif json.loads(path.read_text()) != json.loads(text):
        raise ValueError(
            f"{out} holds a corpus of another configuration ({path}); choose another folder or delete that one"
        )
