"""Odd rows through every pass: each image ends once, no shard fails, no row takes long, and no exception is ours.

    FINEVIT_FUZZ_CASES=20000 FINEVIT_FUZZ_SEED=7 pytest tests/finecap/engine/passes/test_fuzz.py

With the same seed and number the rows are the same; both are printed when the test fails.
"""

import os
import random
import time
from collections import Counter
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from finecap.engine.passes import verify
from finecap.engine.recipe import recipe_from
from finecap.engine.reporting.status import Summary, format_status, summarise
from finecap.engine.running.opening import open_run
from finecap.engine.running.scheduler import Schedule, Task, attempt
from tests.support.faulty_server import FaultyServer
from tests.support.odd_rows import OddDetector, OddReader, odd_picture, odd_text

CASES = int(os.environ.get("FINEVIT_FUZZ_CASES", "1200"))
SEED = int(os.environ.get("FINEVIT_FUZZ_SEED", "20261124"))
ROWS_PER_SHARD = 40
# Processor time of a pass over a shard, of the server in this process too; a row that holds a worker takes more.
MOST_SECONDS = 20.0
# The longest prompt has a phrase, a label, a caption and a text in it.
LONGEST_PROMPT = 10_000


def recipe(url):
    captioners = [
        {"name": name, "model": name, "endpoints": [url], "timeout_s": 60, "max_attempts": 3} for name in ("a", "b")
    ]
    keep_all = {"min_short_side": 1, "min_sharpness": 0, "max_aspect": 1e9, "min_aspect": 0, "min_luminance": 0}
    return recipe_from(
        {
            "ingest": {"source": "s", "license": "l"},
            "filter": keep_all | {"max_luminance": 1, "max_dark": 1, "max_bright": 1},
            "ocr": {},
            "recaption": {},
            "phrases": {},
            "boxes": {"detector": "odd", "documents": True},
            "balance": {},
            "local_captions": {"min_tokens": 1, "max_tokens": 5000},
            "verify": {"read_back_share": 0.1},
            "captioners": captioners,
            "rows_per_shard": ROWS_PER_SHARD,
        }
    )


@dataclass
class Found:
    """What an attack came to.

    Attributes:
        ended: how often each image ended, by its key: in records, or with a reject of some pass.
        failed: types of exceptions that ended rows.
        slowest: a pass over a shard, in seconds of processor time.
        longest_prompt: in characters.
    """

    summary: Summary
    ended: Counter
    failed: set[str]
    slowest: tuple[float, Task]
    longest_prompt: int


def attack(folder, cases, seed):
    """Odd rows through every pass in this process."""
    print(f"FINEVIT_FUZZ_CASES={cases} FINEVIT_FUZZ_SEED={seed}")
    write_rows(folder / "rows.parquet", cases, random.Random(seed))
    models = {"ocr": OddReader(), "detector": OddDetector()}

    def answer(asked):
        return odd_text(random.Random(f"{seed} {asked.identity}"))

    with FaultyServer(seed=seed, reply=answer, null=0.02, bad=0.02, malformed=0.01, choiceless=0.01) as server:
        run = open_run(recipe(server.url), folder / "rows.parquet", folder / "out")
        slowest = run_through(run, models)
        models["event loop"].run_until_complete(models["chat client"].close())
        models["event loop"].close()
        longest = max(len(asked.prompt) for asked in server.asked)
    summary = summarise(run)
    print(format_status(summary))
    failed = {kind for one in summary.passes for kind in one.counters if kind.startswith("failed: ")}
    return Found(summary, endings(run), failed, slowest, longest)


def write_rows(path, cases, source):
    def text():
        return source.choice([None, "", odd_text(source).encode("utf-8", "replace").decode()])

    def split():
        return source.choice([None, "train", "test", "validation", text()])

    rows = [
        {"image": odd_picture(source), "source": text(), "license": text(), "split": split()} for _ in range(cases)
    ]
    schema = pa.schema([("image", pa.binary()), *((name, pa.string()) for name in ("source", "license", "split"))])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)


def run_through(run, models):
    """Every task of the run; returns the slowest pass over a shard."""
    schedule, took = Schedule(run), {}
    while schedule.left:
        for task in list(schedule.ready()):
            start = time.process_time()
            outcome, detail = attempt(run, task, models)
            assert outcome == "done", f"{task}: {outcome}\n{detail}"
            took[task] = time.process_time() - start
            schedule.finished(task)
    slowest = max(took, key=lambda task: took[task])
    return took[slowest], slowest


def endings(run):
    ended = Counter()
    for shard in run.shards:
        ingested = pq.read_table(run.output("ingest", shard.name), columns=["key", "id"]).to_pylist()
        keys = {row["id"]: row["key"] for row in ingested}
        records = pq.read_table(run.output("pack", shard.name), columns=["id"])["id"].to_pylist()
        rejected = set()
        for step in run.recipe.enabled():
            if step.aligned:
                rows = pq.read_table(run.output(step.name, shard.name), columns=["key", "reject"]).to_pylist()
                rejected |= {row["key"] for row in rows if row["reject"]}
        ended.update([*(keys[name] for name in records), *rejected])
    return ended


def test_every_odd_row_ends_once_and_no_shard_fails(tmp_path):
    found = attack(tmp_path, CASES, SEED)

    assert (found.summary.images, found.summary.under_way, found.summary.problems) == (CASES, 0, [])
    assert set(found.ended.values()) == {1}
    nothing_to_say = sum(one.rejects.get("nothing to say", 0) for one in found.summary.passes)
    assert len(found.ended) + nothing_to_say == CASES
    assert found.failed <= {"failed: Injected"}
    assert found.slowest[0] < MOST_SECONDS, found.slowest
    assert found.longest_prompt < LONGEST_PROMPT
    assert found.summary.records > CASES / 5  # or little of this would say anything about the later passes


def test_a_bug_that_a_few_rows_meet_would_be_seen(tmp_path, monkeypatch):
    def limited(texts):
        assert len(texts) % 8 != 3
        return written(texts)

    written = verify.Written.of
    monkeypatch.setattr(verify.Written, "of", limited)
    found = attack(tmp_path, 150, seed=1)

    assert "failed: AssertionError" in found.failed
    assert found.summary.problems == []
    assert set(found.ended.values()) == {1}
