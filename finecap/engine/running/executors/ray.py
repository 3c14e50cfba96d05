"""The same tasks on a Ray cluster. Ray starts processes, finds places and notices deaths; nothing of that is here.

The run's folder must be one file system that every node sees under the same path (NFS, Lustre, ...): results travel
through it, never through Ray. So must the input, unless it is read from URLs. Nodes need this package, and the
captioners' keys in the environment that their Ray was started in: keys are never sent over.
"""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import Collection, Generator
from contextlib import contextmanager
from functools import cache, lru_cache
from itertools import islice
from types import ModuleType
from typing import Any

from finecap.engine.running.executors.local import BUSY_SECONDS, Report
from finecap.engine.running.one_shard import Run
from finecap.engine.running.scheduler import Schedule, Task, attempt
from finecap.errors import StopRun

# Tasks given to Ray at once for each CPU: one at work, one waiting, so that an autoscaler sees what is left to do.
TASKS_PER_CPU = 2


def run_on_ray(
    run: Run,
    workers: int | None = None,
    tries: int = 3,
    only: Collection[str] | None = None,
    report: Report | None = None,
    address: str | None = None,
) -> Schedule:
    """Do everything of a run that is not done, one CPU a task; see `run_locally`, which this does the same as.

    Args:
        workers: CPUs of a Ray of our own; all cores by default. A cluster that exists brings its own number.
        address: of a cluster that exists, "auto" for the one of this machine; RAY_ADDRESS by default, and without
            that a Ray of our own, which ends with the run. A Ray that this process has already joined is used as
            it is.

    Raises:
        ValueError: Ray is not installed, or the cluster cannot be reached.
        StopRun: the run as a whole cannot go on.
    """
    ray = _import_ray()
    schedule = Schedule(run, tries, only)
    if report:
        report(schedule, None)
    with _joined(ray, workers, address or os.environ.get("RAY_ADDRESS")):
        _Driver(ray, schedule, report).drive()
    return schedule


class _Driver:
    def __init__(self, ray: ModuleType, schedule: Schedule, report: Report | None) -> None:
        self._ray = ray
        self._schedule = schedule
        self._report = report
        self._running: dict[Any, Task] = {}
        self._resting: list[tuple[float, Task]] = []
        self._run = ray.put(schedule.run)
        # Ray's own retries are off: they would not count as tries, and a picture that makes its worker run out of
        # memory would be retried for ever (task_oom_retries).
        self._attempt = ray.remote(max_retries=0)(_attempt)

    def drive(self) -> None:
        """Hand out and take back until nothing is under way and nothing can start."""
        try:
            while self._hand_out():
                for done in self._ray.wait(list(self._running), timeout=BUSY_SECONDS)[0] if self._running else []:
                    self._take(done)
                if not self._running and self._resting:
                    time.sleep(BUSY_SECONDS)
        finally:
            for left in self._running:
                self._ray.cancel(left, force=True)

    def _hand_out(self) -> bool:
        for due, task in [entry for entry in self._resting if entry[0] <= time.monotonic()]:
            self._resting.remove((due, task))
            self._schedule.put_back(task)
        places = TASKS_PER_CPU * int(self._ray.cluster_resources().get("CPU", 1))
        for task in islice(self._schedule.ready(), max(0, places - len(self._running))):
            self._running[self._attempt.remote(self._run, task)] = task
        return bool(self._running or self._resting)

    def _take(self, done: Any) -> None:
        task = self._running.pop(done)
        kind, value = self._outcome(done)
        if kind == "stop":
            raise StopRun(value)
        if kind == "busy":
            self._resting.append((time.monotonic() + BUSY_SECONDS, task))
        elif kind == "failed":
            self._schedule.failed(task, value)
        else:
            self._schedule.finished(task)
            if self._report:
                self._report(self._schedule, value)

    def _outcome(self, done: Any) -> tuple[str, Any]:
        try:
            return self._ray.get(done)
        except self._ray.exceptions.RayError as error:  # the worker or its node died, or could not start
            return "failed", str(error)


def _attempt(run: Run, task: Task) -> tuple[str, Any]:
    """What a Ray worker does."""
    return attempt(run, task, _models(str(run.store.out), repr(run.recipe)))


@lru_cache(maxsize=1)
def _models(out: str, recipe: str) -> dict[str, Any]:
    """Heavy things of this worker process, which Ray may use for one run after the other."""
    return {}


def _import_ray() -> ModuleType:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Workers see the GPUs of their node, as those of the local executor do; 0 here means "leave the variable alone".
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise ValueError("--executor ray needs Ray: pip install 'finevit[engine,ray]'") from error
    return ray


@contextmanager
def _joined(ray: ModuleType, workers: int | None, address: str | None) -> Generator[None]:
    if ray.is_initialized():
        yield
        return
    quiet = {"include_dashboard": False, "logging_level": logging.ERROR, "log_to_driver": False}
    try:
        if address in (None, "local"):
            _keep_token_in_memory()
            ray.init(address="local", num_cpus=workers, **quiet)
        else:
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, RuntimeError, ray.exceptions.RayError) as error:
        raise ValueError(f"Ray at {address or 'this machine'} cannot be used: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _keep_token_in_memory() -> None:
    """Give our own Ray its access token in the environment; it would write one to ~/.ray, which may be read-only."""
    if not any(name in os.environ for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")):
        os.environ["RAY_AUTH_TOKEN"] = _token()


@cache
def _token() -> str:
    return secrets.token_hex(32)
