"""The supervised local executor: everything is done once, whatever happens to the workers."""

import errno
import hashlib
import os
import signal
import subprocess
from collections import Counter

import pyarrow.parquet as pq
import pytest

from finecap.engine.recipe import recipe_from
from finecap.engine.running.executors.local import run_locally
from finecap.engine.running.one_shard import Run, read_stats
from finecap.engine.running.scheduler import Schedule, Task
from finecap.engine.running.store import Store
from finecap.errors import StopRun
from finecap.shards.plan import Shard

SHARDS = tuple(Shard(f"{number:05d}-x", "folder", (str(number),)) for number in range(6))


def ingest(rows, options, context):
    for number in range(3):
        key = f"{context.shard}/{number}"
        yield {"key": key, "sha256": key, "phash": hashlib.sha256(key.encode()).digest()}


def passes_on(rows, options, context):
    for row in rows:
        yield {"key": row["key"], "branch": "photo"}


def dies_once(rows, options, context):
    marker = context.out / f"died-{context.shard}"
    if context.shard.startswith("00002") and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    yield from passes_on(rows, options, context)


def always_fails(rows, options, context):
    if context.shard.startswith("00003"):
        raise RuntimeError("this shard is cursed")
    yield from passes_on(rows, options, context)


def spent(rows, options, context):
    raise StopRun("the budget of 5 tokens is spent")


def packs(rows, options, context):
    yield from ()


def make_run(tmp_path, **functions):
    names = {"ingest": "ingest", "filter": "passes_on", "pack": "packs", **functions}
    content = {name: {"function": f"{__name__}:{function}"} for name, function in names.items()}
    content["ingest"] |= {"source": "s", "license": "l"}
    return Run(recipe_from(content), Store(tmp_path), SHARDS)


def keys_of(run, name):
    return Counter(
        key for shard in run.shards for key in pq.read_table(run.output(name, shard.name))["key"].to_pylist()
    )


@pytest.mark.parametrize("workers", [1, 3])
def test_every_shard_goes_through_every_pass_once(tmp_path, workers):
    run = make_run(tmp_path)
    schedule = run_locally(run, workers)
    assert (schedule.left, schedule.set_aside) == (0, {})
    assert keys_of(run, "dedup") == Counter({f"{shard.name}/{n}": 1 for shard in SHARDS for n in range(3)})
    assert Schedule(run).left == 0
    assert not [path for path in tmp_path.rglob(".*") if path.is_file()]


def test_a_killed_worker_is_replaced_and_its_shard_done(tmp_path):
    run = make_run(tmp_path, filter="dies_once")
    schedule = run_locally(run, 2)
    assert [list(errors) for errors in schedule.failures.values()] == [["the worker died with exit code -9"]]
    assert sum(keys_of(run, "filter").values()) == 18


def test_no_worker_outlives_a_supervisor_that_cannot_start_them_all(tmp_path, monkeypatch):
    started, popen = [], subprocess.Popen

    def start(*arguments, **options):
        if len(started) == 2:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        started.append(popen(*arguments, **options))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    with pytest.raises(BlockingIOError):
        run_locally(make_run(tmp_path), 3)
    assert [worker.poll() is None for worker in started] == [False, False]


def test_a_shard_that_always_fails_is_set_aside_with_its_error_and_the_others_wait_only_where_they_must(tmp_path):
    run = make_run(tmp_path, filter="always_fails")
    schedule = run_locally(run, 2, tries=2)
    assert list(schedule.set_aside) == [Task("filter", 3)]
    assert schedule.left == 13  # dedup looks at everything, so it and all after it wait
    errors = list(tmp_path.rglob("*.error.json"))
    assert [path.name for path in errors] == ["00003-x.error.json"]
    assert errors[0].read_text().count("this shard is cursed") >= 2
    assert sum(run.output("filter", shard.name).exists() for shard in SHARDS) == 5


def test_a_spent_budget_stops_the_run_with_its_message(tmp_path):
    with pytest.raises(StopRun, match="budget of 5 tokens"):
        run_locally(make_run(tmp_path, filter="spent"), 2)


def test_later_passes_go_first_and_wait_for_their_inputs(tmp_path):
    run = make_run(tmp_path)
    schedule = Schedule(run)
    assert {task.step for task in schedule.ready()} == {"ingest"}
    schedule.finished(Task("ingest", 4))
    assert next(schedule.ready()) == Task("filter", 4)
    for number in range(6):
        schedule.finished(Task("ingest", number)) if number != 4 else None
        schedule.finished(Task("filter", number))
    assert Task("dedup", None) in set(schedule.ready())


def test_statistics_lie_in_the_footer(tmp_path):
    run = make_run(tmp_path)
    run_locally(run, 1)
    assert read_stats(run.output("dedup", SHARDS[0].name)).rows == 3
