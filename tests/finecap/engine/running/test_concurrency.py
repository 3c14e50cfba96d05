"""Being told to end in the middle of many requests: quick, silent, nothing left in flight."""

import asyncio
import os
import signal
import subprocess
import sys

import pytest

from finecap.engine.running.concurrency import map_bounded

PROGRAM = """
import asyncio, signal, sys
from finecap.engine.running.concurrency import map_bounded

signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))

async def hang(row):
    if row["key"] == "3":
        print("ready", flush=True)
    await asyncio.sleep(600)

map_bounded(hang, ({"key": str(n)} for n in range(100)), 4, asyncio.new_event_loop())
"""


@pytest.fixture
def loop():
    made = asyncio.new_event_loop()
    yield made
    made.close()


def test_a_worker_that_is_told_to_end_says_nothing():
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    process.terminate()
    _, errors = process.communicate(timeout=300)  # it waits for 600 s otherwise
    assert (process.returncode, errors) == (1, b"")


@pytest.mark.parametrize("ending", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("inside", [True, False], ids=["in a task", "between tasks"])
def test_what_is_in_flight_is_cancelled(loop, ending, inside):
    cancelled = []

    def end(*_):
        raise ending(1)

    async def hang(row):
        try:
            if row["key"] == 3:
                if inside:
                    end()
                loop.call_soon(os.kill, os.getpid(), signal.SIGUSR1)
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            cancelled.append(row["key"])
            raise

    before = signal.signal(signal.SIGUSR1, end)
    try:
        with pytest.raises(ending):
            map_bounded(hang, [{"key": n} for n in range(4)], 4, loop)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert sorted(cancelled) == ([0, 1, 2] if inside else [0, 1, 2, 3])
    assert not asyncio.all_tasks(loop)
