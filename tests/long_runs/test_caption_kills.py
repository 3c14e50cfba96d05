"""kill -9 of workers, of Ray workers and of whole runs at 50 random points: no row is lost, none doubled, and at most
what was in flight is paid again.

A real run in processes of its own goes against a real HTTP server that is slow and fails now and then.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from finecap.engine.running.opening import load_run
from tests.support.faulty_server import FaultyServer

IMAGES, ROWS_PER_SHARD, IN_FLIGHT, WORKERS = 160, 8, 4, 2
KILLS = 50
# Requests and committed files of an undisturbed run are about 420, so fifty kills come before its end.
STEPS_BETWEEN_KILLS = 5

pytestmark = pytest.mark.slow


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    random_pixels = np.random.default_rng(0)
    for number in range(IMAGES - 2):
        pixels = random_pixels.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((64, 64), Image.Resampling.BICUBIC).save(folder / f"{number:03d}.jpg")
    (folder / "broken.jpg").write_bytes(b"this is no picture")
    (folder / "copy.jpg").write_bytes((folder / "000.jpg").read_bytes())
    return folder


@pytest.fixture
def server():
    with FaultyServer(seed=3, error=0.02, busy=0.02, lost=0.01, malformed=0.01, latency=0.03, jitter=0.05) as server:
        yield server


@pytest.fixture
def recipe(tmp_path, server):
    path = tmp_path / "recipe.yaml"
    content = {
        "rows_per_shard": ROWS_PER_SHARD,
        "ingest": {"source": "noise", "license": "CC0-1.0"},
        "filter": {"min_short_side": 32, "min_sharpness": 0},
        "captioners": [{"name": "fake", "model": "fake", "endpoints": [server.url], "timeout_s": 5}],
        "recaption": {"in_flight": IN_FLIGHT},
    }
    path.write_text(yaml.safe_dump(content))
    return path


# What `finevit caption` calls, without importing the models as the command line does: the test starts it fifty times.
COMMAND = """
import sys
from pathlib import Path
from finecap.engine.command import caption
caption(*map(Path, sys.argv[1:4]), executor=sys.argv[4], workers=%d, tries=60)
"""


def start(recipe, pictures, out, executor="local"):
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND % WORKERS, str(recipe), str(pictures), str(out), executor],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def check_everything_ended_once(out, server, kills, in_flight):
    run = load_run(out)
    keys, rejects = Counter(), Counter()
    for shard in run.shards:
        keys.update(pq.read_table(run.output("ingest", shard.name), columns=["key"])["key"].to_pylist())
        for name in ("ingest", "filter", "dedup", "recaption"):
            reasons = pq.read_table(run.output(name, shard.name), columns=["reject"])["reject"].to_pylist()
            rejects.update(reason.split(":")[0] for reason in reasons if reason)
    records = Counter(
        name
        for path in (out / "dataset" / "data").glob("*.parquet")
        for name in pq.read_table(path, columns=["id"])["id"].to_pylist()
    )
    assert len(keys) == IMAGES
    assert set(keys.values()) == {1}
    assert set(records.values()) == {1}
    assert sum(records.values()) + sum(rejects.values()) == IMAGES
    assert rejects["not a picture"] == 1
    assert rejects["exact duplicate"] == 1
    assert sum(records.values()) == IMAGES - 2
    assert server.paid_twice <= kills * in_flight
    assert not list(out.rglob("*.tmp")), "half-written files are left"
    assert not list((out / "passes").rglob("*.journal.jsonl"))


def progress(out, server):
    """Requests and committed files: what a kill can hit between."""
    return len(server.asked) + sum(1 for _ in (out / "passes").glob("*/*.parquet"))


def wait_for(process, out, server, goal):
    """False when the process ended before."""
    while process.poll() is None and progress(out, server) < goal:
        time.sleep(0.005)
    return process.poll() is None


def test_the_whole_run_is_killed_again_and_again(recipe, pictures, server, tmp_path):
    draw, out = random.Random(1), tmp_path / "out"
    for kills in range(KILLS + 1):
        process = start(recipe, pictures, out)
        last = kills == KILLS
        goal = float("inf") if last else progress(out, server) + draw.randint(1, 2 * STEPS_BETWEEN_KILLS)
        if not wait_for(process, out, server, goal):
            break
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    check_everything_ended_once(out, server, kills, WORKERS * IN_FLIGHT)
    assert kills == KILLS


@pytest.mark.parametrize(
    ("executor", "worker"), [("local", "finecap.engine.running.worker"), ("ray", "ray::_attempt")]
)
def test_workers_are_killed_again_and_again(recipe, pictures, server, tmp_path, executor, worker):
    draw, out, kills = random.Random(2), tmp_path / "out", 0
    process = start(recipe, pictures, out, executor)
    supervisor = psutil.Process(process.pid)
    while kills < KILLS and wait_for(
        process, out, server, progress(out, server) + draw.randint(1, 2 * STEPS_BETWEEN_KILLS)
    ):
        workers = [child for child in supervisor.children(recursive=True) if worker in command_line(child)]
        if workers:
            draw.choice(workers).kill()
            kills += 1
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    check_everything_ended_once(out, server, kills, IN_FLIGHT)
    assert kills == KILLS


def command_line(process):
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it is gone
        return ""
