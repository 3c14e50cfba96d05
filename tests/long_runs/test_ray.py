"""Ray does the same tasks: nothing is lost, nothing doubled, whatever happens to its workers. A real Ray runs here."""

import os
import signal
import sys
import threading
import urllib.request
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from finecap.engine.recipe import recipe_from
from finecap.engine.reporting.status import summarise
from finecap.engine.running.executors.ray import _token, run_on_ray
from finecap.engine.running.one_shard import Run, read_stats
from finecap.engine.running.opening import open_run
from finecap.engine.running.scheduler import Task
from finecap.engine.running.store import Store
from finecap.errors import StopRun
from finecap.shards.plan import Shard
from tests.support.paths import ROOT

pytestmark = pytest.mark.slow

SHARDS = tuple(Shard(f"{number:05d}-x", "folder", (str(number),)) for number in range(6))
ROWS = 10


def ingest(rows, options, context):
    for number in range(ROWS):
        yield {"key": f"{context.shard}/{number}", "id": f"{number}", "image": b"x"}


def asks(rows, options, context):
    """As a captioner's client does: a paid answer goes into the journal, and what is there is not asked for again."""
    context.load("models are kept", lambda: context.counters.update(["built"]))
    for row in rows:
        answer = context.journal.get(row["key"])
        if answer is None:
            url = f"{os.environ['TEST_CAPTIONER']}/?key={row['key']}&pid={os.getpid()}"
            with urllib.request.urlopen(url, timeout=30) as response:
                answer = response.read().decode()
            context.journal.put(row["key"], answer)
        yield {"key": row["key"], "branch": answer}


def fails_or_stops(rows, options, context):
    if context.shard == SHARDS[1].name:
        raise RuntimeError("this shard is cursed")
    if (context.out / "stop").exists():
        raise StopRun("the budget of 5 tokens is spent")
    yield from ({"key": row["key"]} for row in rows)


def caption(rows, options, context):
    for row in rows:
        yield {"key": row["key"], "captions": [], "global_caption": f"This is {row['key']}.", "captioner": "test"}


class Captioner(ThreadingHTTPServer):
    """Counts who asked for what; at its `deadly`-th request it kills the process that asks, and answers nothing."""

    def __init__(self, deadly):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked, self.workers, self.deadly = Counter(), set(), deadly
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        with self.server.lock:
            self.server.asked[query["key"]] += 1
            self.server.workers.add(query["pid"])
            if self.server.asked.total() == self.server.deadly:
                os.kill(int(query["pid"]), signal.SIGKILL)
                return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"caption of {query['key']}".encode())

    def log_message(self, *arguments):
        pass


@pytest.fixture
def importable(monkeypatch):
    """Ray's workers find the functions of this file, and its access token is not written to the home folder."""
    monkeypatch.setenv("RAY_AUTH_TOKEN", _token())
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)


def make_run(out, **functions):
    content = {name: {"function": f"{__name__}:{function}"} for name, function in functions.items()}
    content["ingest"] |= {"source": "s", "license": "l"}
    return Run(recipe_from(content), Store(out), SHARDS)


def test_a_killed_ray_worker_costs_one_answer_and_no_row(tmp_path, monkeypatch, importable):
    captioner = Captioner(deadly=17)
    monkeypatch.setenv("TEST_CAPTIONER", f"http://127.0.0.1:{captioner.server_port}")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    run = make_run(tmp_path, ingest="ingest", filter="asks")
    reports = []
    schedule = run_on_ray(run, 2, only=["ingest", "filter"], report=lambda schedule, stats: reports.append(stats))
    captioner.shutdown()

    assert (schedule.left, schedule.set_aside) == (0, {})
    [errors] = schedule.failures.values()
    assert len(errors) == 1
    assert "died" in errors[0]
    expected = {f"{shard.name}/{number}" for shard in SHARDS for number in range(ROWS)}
    found = []
    for shard in SHARDS:
        found += pq.read_table(run.output("filter", shard.name)).select(["key", "branch"]).to_pylist()
    assert Counter(row["key"] for row in found) == Counter(expected)
    assert all(row["branch"] == f"caption of {row['key']}" for row in found)
    # One request was in flight in the worker that was killed: it alone is paid twice.
    assert sorted(captioner.asked.values()) == [1] * (len(expected) - 1) + [2]
    built = sum(read_stats(run.output("filter", shard.name)).counters.get("built", 0) for shard in SHARDS)
    assert built <= len(captioner.workers) < len(SHARDS)
    assert len(reports) == 1 + 2 * len(SHARDS)
    assert not list(tmp_path.rglob("*.journal.jsonl"))


def test_on_a_ray_that_was_there_a_whole_run_adds_up_errors_count_and_a_stop_stops(tmp_path, monkeypatch, importable):
    import ray

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        whole = whole_run(tmp_path)
        assert run_on_ray(whole).left == 0
        summary = summarise(whole)
        assert (summary.images, summary.records, summary.rejected, summary.problems) == (5, 4, 1, [])
        assert summary.finished

        run = make_run(tmp_path, ingest="ingest", filter="fails_or_stops")
        schedule = run_on_ray(run, tries=2, only=["ingest", "filter"])
        assert list(schedule.set_aside) == [Task("filter", 1)]
        assert len(schedule.failures[Task("filter", 1)]) == 2
        [error] = tmp_path.rglob("*.error.json")
        assert error.read_text().count("this shard is cursed") >= 2
        assert sum(run.output("filter", shard.name).exists() for shard in SHARDS) == len(SHARDS) - 1

        run.output("filter", SHARDS[4].name).unlink()
        (tmp_path / "stop").touch()
        with pytest.raises(StopRun, match="budget of 5 tokens"):
            run_on_ray(run, only=["filter"])
        assert ray.is_initialized()
    finally:
        ray.shutdown()


def whole_run(folder):
    """The engine's own passes over four pictures and a copy of one of them, with a look at the whole collection."""
    (folder / "pictures").mkdir()
    noise = np.random.default_rng(0)
    for number in range(4):
        coarse = noise.integers(40, 215, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((480, 480), Image.Resampling.NEAREST).save(folder / f"pictures/{number}.png")
    (folder / "pictures" / "copy.png").write_bytes((folder / "pictures" / "3.png").read_bytes())
    content = {"ingest": {"source": "s", "license": "l"}, "recaption": {"function": f"{__name__}:caption"}}
    return open_run(recipe_from({**content, "rows_per_shard": 2}), folder / "pictures", folder / "whole")


def test_without_ray_the_user_is_told_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    run = make_run(tmp_path, ingest="ingest", filter="asks")
    with pytest.raises(ValueError, match=r"pip install 'finevit\[engine,ray\]'"):
        run_on_ray(run)
