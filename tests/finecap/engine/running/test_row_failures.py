"""A bug that one row wakes ends that row; one that all rows wake, a full disk or a full memory ends the try."""

import asyncio
import dataclasses
import errno
from itertools import islice
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from finecap.engine.contract import Context, Settings
from finecap.engine.recipe import Recipe, recipe_from
from finecap.engine.reporting.status import format_status, summarise
from finecap.engine.running import one_shard as runner
from finecap.engine.running.concurrency import map_rows, rejected
from finecap.engine.running.one_shard import Run, read_stats, run_shard
from finecap.engine.running.row_failures import ALL_ALIKE, IN_A_ROW, MOST_ALIKE, ManyRowsFailed
from finecap.engine.running.store import Store
from finecap.errors import StopRun
from tests.support.captioned_run import BEFORE, SHARD


class Oops(Exception):
    """What a bug raises."""


def lazily(row_of):
    def run(rows, options, context):
        for row in rows:
            yield row_of(row)

    return run


def all_read_first(row_of):
    def run(rows, options, context):
        return [row_of(row) for row in list(rows)]

    return run


def in_pairs(row_of):
    def run(rows, options, context):
        while batch := list(islice(rows, 2)):
            yield from [row_of(row) for row in batch]

    return run


def photo(row):
    return {"key": row["key"], "branch": "photo"}


def raising(bad, error):
    def row_of(row):
        if row["key"] in bad:
            raise error
        return photo(row)

    return row_of


@pytest.fixture
def run_over(tmp_path, monkeypatch):
    """A run over rows of these keys whose filter is this function."""

    def build(keys, function, name="filter"):
        rows = [{"key": key, "bytes": key.encode(), "url": None} for key in keys]
        monkeypatch.setattr(runner, "read_shard", lambda shard: iter(rows))
        run = Run(recipe_from(BEFORE), Store(tmp_path), (SHARD,))
        for before in run.recipe.ancestors(name):
            run_shard(run, before, SHARD, {})
        step, original = dataclasses.replace(run.recipe.step(name), run=function), Recipe.step
        monkeypatch.setattr(Recipe, "step", lambda self, asked: step if asked == name else original(self, asked))
        return run

    return build


@pytest.mark.parametrize("style", [lazily, all_read_first, in_pairs])
@pytest.mark.parametrize("bad", ["", "a", "e", "cd", "abcdef"])
def test_a_row_on_which_a_pass_raises_is_rejected_and_all_others_have_their_results(run_over, style, bad):
    run = run_over("abcdefg", style(raising(bad, Oops("no\n luck"))))

    stats = run_shard(run, "filter", SHARD, {})

    table = pq.read_table(run.output("filter", SHARD.name))
    assert table["key"].to_pylist() == list("abcdefg")
    assert table["branch"].to_pylist() == [None if key in bad else "photo" for key in "abcdefg"]
    assert table["reject"].to_pylist() == ["failed: Oops: no luck" if key in bad else None for key in "abcdefg"]
    assert stats.rejects == ({"failed": len(bad)} if bad else {})
    assert stats.counters == ({"failed: Oops": len(bad)} if bad else {})


def test_the_first_traceback_of_each_type_is_kept_and_shown(run_over):
    def row_of(row):
        if row["key"] in "bc":
            raise Oops(row["key"])
        return {"d": int}.get(row["key"], photo)(row)

    run = run_over("abcde", lazily(row_of))
    run_shard(run, "filter", SHARD, {})

    tracebacks = read_stats(run.output("filter", SHARD.name)).tracebacks
    assert list(tracebacks) == ["Oops", "TypeError"]
    assert tracebacks["Oops"].startswith("row 'b'\nTraceback")
    assert "raise Oops" in tracebacks["Oops"]
    shown = format_status(summarise(run))
    assert "filter failed: Oops" in shown
    assert "raise Oops" in shown


def test_a_row_that_does_not_fit_the_columns_is_rejected(run_over):
    wrong = {"b": {"sharpness": "sharp"}, "c": {"branch": "\ud800"}, "d": {"reject": "why: \udfff"}}
    run = run_over("abcde", lazily(lambda row: photo(row) | wrong.get(row["key"], {})))

    stats = run_shard(run, "filter", SHARD, {})

    table = pq.read_table(run.output("filter", SHARD.name))
    assert [key for key, reject in zip("abcde", table["reject"].to_pylist(), strict=True) if reject] == list("bcd")
    assert all(reject.startswith("failed: ") for reject in table["reject"].to_pylist() if reject)
    assert stats.rejects == {"failed": 3}
    assert sum(stats.counters.values()) == 3


def test_a_pass_without_a_column_for_rejects_counts_them(run_over):
    def row_of(row):
        if row["key"] == "b":
            raise Oops
        return {"id": row["key"], "width": "wide" if row["key"] == "c" else 1}

    run = run_over("abcd", lazily(row_of), "pack")
    stats = run_shard(run, "pack", SHARD, {})

    assert pq.read_table(run.output("pack", SHARD.name))["id"].to_pylist() == ["a", "d"]
    assert (stats.rows, stats.rejects) == (4, {"failed": 2})
    assert summarise(run).problems == []
    assert summarise(run).rejected == 2


@pytest.mark.parametrize(
    "error",
    [StopRun("no credit"), MemoryError(), OSError(errno.EIO, "disk"), ConnectionResetError(104, "reset")],
)
def test_what_is_no_rows_own_fault_ends_the_try(run_over, error):
    run = run_over("abc", lazily(raising("b", error)))
    with pytest.raises(type(error)):
        run_shard(run, "filter", SHARD, {})
    assert not run.output("filter", SHARD.name).exists()


def test_a_pass_that_fails_before_it_reads_a_row_is_not_called_for_each(run_over):
    calls = []

    def no_model(rows, options, context):
        calls.append(1)
        raise Oops("no such model")
        yield from rows

    with pytest.raises(Oops):
        run_shard(run_over("abc", no_model), "filter", SHARD, {})
    assert len(calls) == 1


def keys_of(count):
    return [f"{number:03d}" for number in range(count)]


def test_a_bug_that_hits_most_rows_fails_the_shard_with_its_traceback(run_over):
    keys = keys_of(2 * MOST_ALIKE)
    run = run_over(keys, lazily(raising(keys[::2] + keys[1:2], Oops("every\nwhere"))))
    with pytest.raises(ManyRowsFailed) as caught:
        run_shard(run, "filter", SHARD, {})
    lines = str(caught.value).splitlines()
    assert lines[-1] == f"{MOST_ALIKE + 1} of {2 * MOST_ALIKE} rows failed alike: Oops: every where"
    assert any("raise error" in line for line in lines)


@pytest.mark.parametrize(
    ("rows", "bad"), [(ALL_ALIKE - 1, ALL_ALIKE - 1), (MOST_ALIKE, MOST_ALIKE - 1), (2 * MOST_ALIKE, MOST_ALIKE)]
)
def test_a_few_bad_rows_or_half_of_them_are_no_bug(run_over, rows, bad):
    keys = keys_of(rows)
    run = run_over(keys, lazily(raising(keys[-bad:], Oops("here"))))
    assert run_shard(run, "filter", SHARD, {}).rejects == {"failed": bad}


def test_all_rows_of_a_small_shard_are_a_bug(run_over):
    with pytest.raises(ManyRowsFailed):
        run_shard(run_over(keys_of(ALL_ALIKE), lazily(raising(keys_of(ALL_ALIKE), Oops()))), "filter", SHARD, {})


def test_a_broken_pass_stops_early(run_over):
    seen = set()

    def row_of(row):
        seen.add(row["key"])
        raise Oops

    with pytest.raises(ManyRowsFailed):
        run_shard(run_over(keys_of(10 * IN_A_ROW), lazily(row_of)), "filter", SHARD, {})
    assert len(seen) == IN_A_ROW


def test_many_rows_that_do_not_fit_the_columns_are_a_bug(run_over):
    run = run_over(keys_of(MOST_ALIKE), lazily(lambda row: photo(row) | {"sharpness": "sharp"}))
    with pytest.raises(ManyRowsFailed):
        run_shard(run, "filter", SHARD, {})


@pytest.fixture
def context():
    made = Context("s", Settings(), None, None, Path(), {"event loop": asyncio.new_event_loop()})
    yield made
    made.models["event loop"].close()


def test_one_of_many_at_once_that_raises_ends_alone(context):
    async def one(row):
        await asyncio.sleep(0)
        return raising("c", Oops("no"))(row)

    rows = [{"key": key} for key in "abcd"]
    found = map_rows(one, rows, 2, context, rejected)
    assert [row.get("reject") for row in found] == [None, None, "failed: Oops: no", None]
    assert context.counters == {"failed: Oops": 1}
    assert "raise error" in context.tracebacks["Oops"]


@pytest.mark.parametrize(("error", "ending"), [(StopRun("stop"), StopRun), (Oops("bug"), ManyRowsFailed)])
def test_many_at_once_end_together_for_what_is_nobodys_fault(context, error, ending):
    keys = keys_of(MOST_ALIKE)

    async def one(row):
        return raising(keys, error)(row)

    with pytest.raises(ending):
        map_rows(one, [{"key": key} for key in keys], 3, context, rejected)
