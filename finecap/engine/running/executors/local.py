"""Supervised worker processes on one machine: a dead worker's task is offered again, a failing one set aside."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from finecap.engine.running.one_shard import Run, ShardStats
from finecap.engine.running.scheduler import Schedule, Task
from finecap.errors import StopRun

# How long to wait before asking again for a shard that a process of another run of the same folder works on.
BUSY_SECONDS = 1.0
# What a worker has to remove its half-written files.
GRACE_SECONDS = 10.0

Report = Callable[[Schedule, ShardStats | None], None]


@dataclass(eq=False)
class _Worker:
    process: subprocess.Popen
    pipe: Connection
    lifeline: int
    task: Task | None = None

    def dismiss(self) -> None:
        """Let go of its files; closing the lifeline ends it if it should still live."""
        self.pipe.close()
        os.close(self.lifeline)


def run_locally(
    run: Run,
    workers: int,
    tries: int = 3,
    only: Collection[str] | None = None,
    report: Report | None = None,
) -> Schedule:
    """Do everything of a run that is not done, in `workers` processes.

    Args:
        tries: how often a task is begun before it is set aside with its error.
        only: names of the passes to do.
        report: called with the schedule and the statistics of each finished task (and once at the start).

    Returns:
        The schedule when nothing more can be done: `set_aside` holds what failed `tries` times, which a later start
        tries again, and `left` counts the tasks that wait for those.

    Raises:
        StopRun: the run as a whole cannot go on; workers are ended, paid answers are in their journals.
    """
    schedule = Schedule(run, tries, only)
    if report:
        report(schedule, None)
    crew = _Crew(run)
    try:
        crew.grow(max(1, min(workers, schedule.left)))
        while _hand_out(schedule, crew):
            for worker in crew.reported(timeout=BUSY_SECONDS):
                _take(schedule, crew, worker, report)
    finally:
        crew.end()
    return schedule


def _hand_out(schedule: Schedule, crew: _Crew) -> bool:
    """Give idle workers what is ready; False when nothing is under way and nothing can start."""
    for due, waiting in [entry for entry in crew.resting if entry[0] <= time.monotonic()]:
        crew.resting.remove((due, waiting))
        schedule.put_back(waiting)
    idle = [worker for worker in crew.workers if worker.task is None]
    for worker, task in zip(idle, schedule.ready(), strict=False):
        crew.start(worker, task)
    return bool(crew.resting) or any(worker.task for worker in crew.workers)


def _take(schedule: Schedule, crew: _Crew, worker: _Worker, report: Report | None) -> None:
    task, (kind, value) = crew.receive(worker)
    if kind == "stop":
        raise StopRun(value)
    if kind == "busy":
        crew.resting.append((time.monotonic() + BUSY_SECONDS, task))
    elif kind == "failed":
        schedule.failed(task, value)
    else:
        schedule.finished(task)
        if report:
            report(schedule, value)


class _Crew:
    """The worker processes. Not `multiprocessing.Pool`, which waits for ever when one of its workers is killed."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.resting: list[tuple[float, Task]] = []
        self.workers: list[_Worker] = []

    def grow(self, count: int) -> None:
        """Start `count` more workers."""
        for _ in range(count):
            self.workers.append(self._hire())

    def _hire(self) -> _Worker:
        ours, theirs = multiprocessing.Pipe()
        end, lifeline = os.pipe()
        process = subprocess.Popen(
            [sys.executable, "-m", "finecap.engine.running.worker", str(theirs.fileno()), str(end)],
            pass_fds=(theirs.fileno(), end),
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
        )
        theirs.close()
        os.close(end)
        with suppress(OSError):  # it died at once; `receive` will find out
            ours.send(self._run)
        return _Worker(process, ours, lifeline)

    def start(self, worker: _Worker, task: Task) -> None:
        worker.task = task
        with suppress(OSError):  # it died idle; `receive` will find out and hire another
            worker.pipe.send(task)

    def reported(self, timeout: float) -> list[_Worker]:
        """Workers that said something or died while at work."""
        busy = [worker for worker in self.workers if worker.task]
        if not busy:
            time.sleep(timeout)
            return []
        heard = wait([worker.pipe for worker in busy], timeout)
        return [worker for worker in busy if worker.pipe in heard]

    def receive(self, worker: _Worker) -> tuple[Task, tuple[str, Any]]:
        """The task and what became of it; a worker that died is replaced."""
        task, worker.task = worker.task, None
        assert task is not None
        try:
            return task, worker.pipe.recv()
        except (EOFError, OSError):
            code = worker.process.wait()
            self.workers.remove(worker)
            worker.dismiss()
            self.grow(1)
            return task, ("failed", f"the worker died with exit code {code}")

    def end(self) -> None:
        """End every worker, at work or not."""
        for worker in self.workers:
            worker.process.terminate()
        for worker in self.workers:
            try:
                worker.process.wait(timeout=GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
            worker.dismiss()
