"""A run of a million rows without pictures: what status, balance and dedup cost when a collection is large.

The passes are functions of this file, which the recipe names in place of the engine's; executor, writer, footers and
everything that is measured are the engine's own.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.measuring import progress
from finecap.engine.contract import Context, Row
from finecap.engine.counters import COMPLETION_TOKENS, PROMPT_TOKENS
from finecap.engine.recipe import recipe_from
from finecap.engine.running.executors.local import run_locally
from finecap.engine.running.opening import open_run

CLASSES = 20_000
# One picture in this many is a copy of the one before; another one differs from it in three bits of its hash.
COPIES = 50
RECIPE = {
    "ingest": {"source": "synthetic", "license": "CC0-1.0", "function": "benchmarks.engine.synthetic:ingest"},
    "filter": {"function": "benchmarks.engine.synthetic:filtered"},
    "recaption": {"function": "benchmarks.engine.synthetic:captioned"},
    "phrases": {"function": "benchmarks.engine.synthetic:phrased"},
    "boxes": {"url": "http://127.0.0.1:9", "function": "benchmarks.engine.synthetic:boxed"},
    "balance": {"cap": 1000, "whole_below": 100},
    "captioners": [{"name": "none", "model": "none", "endpoints": ["http://127.0.0.1:9/v1"]}],
}
WRITTEN = ("ingest", "filter", "dedup", "recaption", "phrases", "boxes")
ROOT = str(Path(__file__).resolve().parents[2])


def ingest(rows: Iterator[Row], options: Any, context: Context) -> Iterable[Row]:
    """Rows as ingest makes them, without pictures."""
    random_bytes = random.Random(context.shard)
    sha256, phash = "", b""
    for number, row in enumerate(rows):
        if number % COPIES == 1:
            phash = bytes([phash[0] ^ 7]) + phash[1:]
            sha256 = random_bytes.randbytes(32).hex()
        elif number % COPIES != 2:
            sha256, phash = random_bytes.randbytes(32).hex(), random_bytes.randbytes(32)
        yield {
            "key": row["key"],
            "id": sha256[:24],
            "sha256": sha256,
            "phash": phash,
            "width": 640,
            "height": 480,
            "format": "JPEG",
            "source": "synthetic",
            "license": "CC0-1.0",
            "split": "train",
        }


def filtered(rows: Iterator[Row], options: Any, context: Context) -> Iterable[Row]:
    for number, row in enumerate(rows):
        yield {"key": row["key"], "branch": "photo", "reject": "blurred: 12 < 50" if number % 20 == 19 else None}


def captioned(rows: Iterator[Row], options: Any, context: Context) -> Iterable[Row]:
    for row in rows:
        context.counters[PROMPT_TOKENS] += 1000
        context.counters[COMPLETION_TOKENS] += 200
        yield {"key": row["key"], "global_caption": f"What {row['key']} shows.", "captioner": "none"}


def phrased(rows: Iterator[Row], options: Any, context: Context) -> Iterable[Row]:
    for row in rows:
        yield {"key": row["key"]}


def boxed(rows: Iterator[Row], options: Any, context: Context) -> Iterable[Row]:
    """Four boxes a picture, of classes with a long tail: the n-th class comes up about 1/n as often as the first."""
    draw = random.Random(f"boxes {context.shard}")
    for row in rows:
        labels = [f"class {int(CLASSES ** draw.random())}" for _ in range(4)]
        objects = [{"bbox": [1.0, 2.0, 30.0, 40.0], "label": one, "phrase": one, "score": 0.5} for one in labels]
        yield {"key": row["key"], "objects": objects, "detector": "none"}


def build(folder: Path, shards: int, rows: int, workers: int) -> Path:
    """A run whose passes up to the boxes are done; its folder."""
    source, out = folder / "in", folder / "out"
    source.mkdir(parents=True)
    links = pa.table({"url": [f"https://example.org/{number}.jpg" for number in range(rows)]})
    for number in range(shards):
        pq.write_table(links, source / f"{number:05d}.parquet")
    run = open_run(recipe_from(RECIPE | {"rows_per_shard": rows}), source, out)
    schedule = run_locally(run, workers, only=WRITTEN)
    if schedule.set_aside or schedule.left:
        raise RuntimeError(f"the synthetic run failed: {schedule.set_aside}")
    return out


# Each program is run with the run's folder as its argument; the last line that it says is its peak memory.
_REDUCE = """
from pathlib import Path
from finecap.engine.running.one_shard import run_reduce
from finecap.engine.running.opening import load_run
run = load_run(Path(sys.argv[1]))
run.reduced({name!r}).unlink(missing_ok=True)
run_reduce(run, {name!r})
"""
PROGRAMS = {
    "imports of status": "import finevit_cli, finecap.engine.command",
    "status": "from finevit_cli import main\nmain(['caption', 'status', sys.argv[1], '--json'])",
    "imports of balance": "import duckdb, finecap.engine.running.opening, finecap.engine.passes.dedup",
    "balance": _REDUCE.format(name="balance"),
    "dedup": _REDUCE.format(name="dedup"),
}
# Not getrusage's, which counts what the parent had when it forked.
_PEAK = "\nprint(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')))"


def measure(out: Path) -> dict[str, Any]:
    """Seconds and peak memory of each program, each in a process of its own (Linux)."""
    found = {}
    for name, program in PROGRAMS.items():
        found[name] = _run(program, out)
        progress(f"{name}: {found[name]['seconds']:.1f} s, {found[name]['peak_rss_mb']:.0f} MB")
    return found


def _run(program: str, out: Path) -> dict[str, float]:
    command = [sys.executable, "-c", f"import sys\n{program}{_PEAK}", str(out)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([ROOT, os.environ.get("PYTHONPATH", "")])}
    start = time.perf_counter()
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=True).stdout
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "peak_rss_mb": int(said.split("VmHWM:")[1].split()[0]) * 1024 / 1e6}
