"""How far a run is, read from its folder: nothing is counted twice, and what does not add up is named."""

import dataclasses
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finecap.engine.local import run_locally
from finecap.engine.recipe import recipe_from
from finecap.engine.runner import STATS_KEY, Run, ShardStats
from finecap.engine.shards import Shard
from finecap.engine.spend import Ledger, Spend
from finecap.engine.status import format_status, seconds_left, summarise
from finecap.engine.store import Store

SHARDS = tuple(Shard(f"{number:05d}-x", "folder", (str(number),)) for number in range(4))


def ingest(rows, options, context):
    for number in range(10):
        reject = "broken: truncated" if number == 0 else None
        yield {"key": f"{context.shard}/{number}", "id": f"{number}", "image": b"x", "reject": reject}


def drops_two(rows, options, context):
    for row in rows:
        number = int(row["key"].split("/")[1])
        context.counters["looked at"] += 1
        yield {"key": row["key"], "reject": f"too small: {number}" if number in (1, 2) else None}


def fails_on_the_last(rows, options, context):
    for row in rows:
        if context.shard == SHARDS[-1].name:
            context.journal.put(row["key"], "paid")
            context.journal.put(f"{row['key']}|again", "paid")
            raise RuntimeError("the server\nis on fire")
        yield {"key": row["key"]}


def passes_on(rows, options, context):
    yield from ({"key": row["key"]} for row in rows)


def packs(rows, options, context):
    yield from ({"id": row["id"]} for row in rows)


def reduce_nothing(outputs, options, out):
    pq.write_table(pa.table({"count": [len(outputs["ingest"])]}), out)


@pytest.fixture
def make_run(tmp_path, monkeypatch):
    from finecap.engine import pipeline, recipe

    passes = tuple(
        dataclasses.replace(step, reduce=reduce_nothing) if step.name == "dedup" else step for step in pipeline.PASSES
    )
    monkeypatch.setattr(recipe, "PASSES", passes)

    def make(**functions):
        names = {"ingest": "ingest", "filter": "drops_two", "dedup": "passes_on", "pack": "packs", **functions}
        content = {name: {"function": f"{__name__}:{function}"} for name, function in names.items()}
        content["ingest"] |= {"source": "s", "license": "l"}
        return Run(recipe_from(content), Store(tmp_path), SHARDS)

    return make


def write_footer(run, name, shard, committed, **stats):
    """An output as the runner writes it, with made-up statistics."""
    path = run.output(name, shard)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = json.dumps(dataclasses.asdict(ShardStats(name, shard, **stats)))
    rows = stats["rows"]
    table = pa.table({"key": ["k"] * rows, "reject": pa.nulls(rows, pa.string())})
    pq.write_table(table.replace_schema_metadata({STATS_KEY: content}), path)
    os.utime(path, (committed, committed))


def test_images_are_records_rejects_and_what_is_under_way(make_run):
    run = make_run()
    from finecap.engine.scheduler import Task, run_task

    for task in (Task("ingest", 0), Task("ingest", 1), Task("filter", 0)):
        run_task(run, task, {})
    summary = summarise(run)
    assert (summary.images, summary.records, summary.rejected, summary.under_way) == (20, 0, 4, 16)
    assert [one.done for one in summary.passes] == [2, 1, 0, 0]
    assert not summary.finished
