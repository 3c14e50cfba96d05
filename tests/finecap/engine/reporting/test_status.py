"""How far a run is, read from its folder: nothing is counted twice, and what does not add up is named."""

import dataclasses
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finecap.engine import pipeline, recipe
from finecap.engine.captioners.spend import Ledger, Spend
from finecap.engine.counters import NOTHING_TO_SAY
from finecap.engine.recipe import recipe_from
from finecap.engine.reporting.status import PassSummary, format_status, seconds_left, summarise
from finecap.engine.running.one_shard import STATS_KEY, Run, ShardStats
from finecap.engine.running.scheduler import Schedule, run_task
from finecap.engine.running.store import Store
from finecap.files import write_json
from finecap.shards.plan import Shard

SHARDS = tuple(Shard(f"{number:05d}-x", "folder", (str(number),)) for number in range(4))
ON_FIRE = "9 of 9 rows failed alike: RuntimeError: the server is on fire"


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
    for row in rows:
        if row["id"] == "9":
            context.counters[NOTHING_TO_SAY] += 1
        else:
            yield {"id": row["id"]}


def reduce_nothing(outputs, options, out):
    pq.write_table(pa.table({"count": [len(outputs["ingest"])]}), out)


@pytest.fixture
def make_run(tmp_path, monkeypatch):
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


def finish(run, only=None):
    """Every task that can be done, in this process."""
    schedule = Schedule(run, tries=1, only=only)
    for task in schedule.ready():
        try:
            assert run_task(run, task, {}) is not None
            schedule.finished(task)
        except RuntimeError as error:
            schedule.failed(task, str(error))
            write_json(
                run.store.error(run.recipe.pass_key(task.step), SHARDS[task.shard].name), {"errors": [str(error)]}
            )


def test_a_finished_run_is_records_and_rejects(make_run):
    run = make_run()
    finish(run)
    summary = summarise(run)
    assert summary.finished
    assert (summary.images, summary.records, summary.rejected, summary.under_way) == (40, 24, 16, 0)
    by_name = {one.name: one for one in summary.passes}
    assert by_name["filter"].rows == 36
    assert by_name["filter"].rejects == {"too small": 8}
    assert by_name["filter"].counters == {"looked at": 36}
    assert by_name["pack"].rejects == {"nothing to say": 4}
    assert by_name["dedup"].reduced
    assert (summary.problems, summary.unknown_left) == ([], [])
    assert summary.seconds_left == 0
    assert "40 = 24 records + 16 rejected + 0 under way" in format_status(summary)


def test_an_unfinished_run_says_what_is_under_way_and_which_paid_answers_wait(make_run):
    run = make_run(filter="fails_on_the_last")
    finish(run)
    summary = summarise(run)
    assert (summary.images, summary.records, summary.rejected, summary.under_way) == (40, 0, 4, 36)
    by_name = {one.name: one for one in summary.passes}
    assert (by_name["filter"].done, by_name["dedup"].done) == (3, 0)
    assert by_name["filter"].set_aside == {SHARDS[-1].name: ON_FIRE}
    # Each row was tried with the others and alone.
    assert (by_name["filter"].journals, by_name["filter"].journal_answers) == (1, 36)
    assert summary.unknown_left == ["dedup", "pack"]
    text = format_status(summary)
    assert "dedup (*)" in text
    assert f"filter {SHARDS[-1].name}: {ON_FIRE}" in text
    assert max(map(len, text.splitlines()[1:])) <= 100


def test_what_a_dead_worker_left_of_a_finished_shard_and_shards_left_out_is_not_waiting(make_run):
    run = make_run(filter="fails_on_the_last")
    finish(run)
    for name in (SHARDS[0].name, "reduced"):
        write_json(run.store.error(run.recipe.pass_key("ingest"), name), {"errors": ["of an earlier try"]})
    run.store.journal(run.recipe.pass_key("ingest"), SHARDS[0].name).write_text('{"key": "k", "answer": 1}\n')
    assert [one.set_aside for one in summarise(run).passes if one.set_aside] == [{SHARDS[3].name: ON_FIRE}]
    assert sum(one.journals for one in summarise(run).passes) == 1
    without = dataclasses.replace(run, shards=SHARDS[:3])
    assert not any(one.set_aside or one.journals for one in summarise(without).passes)


def test_what_is_being_written_and_other_recipes_outputs_do_not_count(make_run):
    run = make_run()
    finish(run, only=["ingest"])
    folder = run.output("ingest", "x").parent
    (folder / ".00001-x.parquet.0123.tmp").write_bytes(b"half")
    (folder / ".00001-x.parquet.lock").touch()
    (folder / "99999-gone.parquet").write_bytes(b"of a plan before")
    (folder.parent / "ingest-0000000000").mkdir()
    assert summarise(run).passes[0].done == 4


def test_a_lost_row_is_noticed(make_run):
    run = make_run()
    finish(run)
    write_footer(run, "filter", SHARDS[2].name, 100.0, rows=8, rejects={"too small": 2})
    problems = summarise(run).problems
    assert len(problems) == 2  # filter saw one too few, and dedup one more than filter let through
    assert problems[0] == f"{SHARDS[2].name}: filter saw 8 rows and wrote 8; 9 of 10 were alive"


def test_two_passes_that_do_not_know_of_each_other_may_drop_the_same_image(make_run):
    recaption = {"function": f"{__name__}:passes_on"}
    content = {"ingest": {"source": "s", "license": "l"}, "ocr": {}, "recaption": recaption}
    run = Run(recipe_from(content), make_run().store, SHARDS[:1])
    for name, rows, rejects in [
        *(("ingest", 10, {}), ("filter", 10, {}), ("dedup", 10, {})),
        *(("ocr", 10, {"odd": 3}), ("recaption", 10, {"no caption": 2})),
    ]:
        write_footer(run, name, SHARDS[0].name, 50.0, rows=rows, rejects=rejects)
    for alive, fine in ((4, False), (5, True), (7, True), (8, False)):
        write_footer(run, "pack", SHARDS[0].name, 50.0, rows=alive)
        summary = summarise(run)
        assert (summary.problems == []) == fine
        assert summary.records + summary.rejected == 10


def test_a_broken_output_is_named(make_run):
    run = make_run()
    finish(run, only=["ingest"])
    path = run.output("ingest", SHARDS[1].name)
    path.write_bytes(b"PAR1 no more")
    with pytest.raises(ValueError, match=rf"{SHARDS[1].name}\.parquet: not an output of the caption engine"):
        summarise(run)


def test_rates_and_time_left_are_those_of_the_time_in_which_something_ran(make_run):
    run = make_run()
    # Two workers at once: 100 s for a shard each, then a night without any, then one shard more.
    for shard, committed in zip(SHARDS, (1100.0, 1100.0, 40_100.0, None), strict=True):
        if committed:
            write_footer(run, "ingest", shard.name, committed, rows=50, seconds=100.0)
    write_footer(run, "filter", SHARDS[0].name, 40_110.0, rows=50, seconds=10.0)
    summary = summarise(run, now=40_130.0)
    ingest, filtering, *_ = summary.passes
    assert ingest.wall_seconds == 200
    assert ingest.rows_per_second == pytest.approx(150 / 200)
    assert filtering.rows_per_second == pytest.approx(5)
    assert summary.idle_seconds == pytest.approx(20)
    # In the last hour one worker was at work: one shard of 100 s to ingest, three of 10 s to filter.
    assert summary.seconds_left == pytest.approx(130)


def test_twice_the_workers_halve_the_time_left():
    passes = [PassSummary("ingest", done=2, shards=12, reduced=None, seconds=60.0)]
    assert seconds_left(passes, [(0, 30), (30, 60)]) == pytest.approx(300)
    assert seconds_left(passes, [(0, 30), (0, 30)]) == pytest.approx(150)
    assert seconds_left(passes, []) is None


def test_what_was_paid_comes_from_the_ledger(make_run):
    run = make_run()
    for _ in range(2):
        ledger = Ledger(run.store.out)
        ledger.pay(Spend(3, 100, 10, 2_000_000_000))
        ledger.close()
    summary = summarise(run)
    assert (summary.requests, summary.prompt_tokens, summary.completion_tokens) == (6, 200, 20)
    assert summary.dollars == pytest.approx(4.0)
    assert json.loads(json.dumps(dataclasses.asdict(summary)))["dollars"] == summary.dollars
