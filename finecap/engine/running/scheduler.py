"""What can be done next: a pass over a shard, once its parents are committed there, or a pass's look at everything."""

from __future__ import annotations

import heapq
import traceback
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

from finecap.engine.running.one_shard import Run, ShardStats, run_reduce, run_shard
from finecap.errors import StopRun
from finecap.files import write_json


class Task(NamedTuple):
    """One pass over one shard (its number in `run.shards`), or, with None, its look at the whole collection."""

    step: str
    shard: int | None


class Schedule:
    """Hands out tasks whose inputs exist. Later passes go first, so that records come out early.

    What exists in the run's folder is done; nothing else is remembered between two starts.
    """

    def __init__(self, run: Run, tries: int = 3, only: Collection[str] | None = None) -> None:
        """`only`: names of the passes to do; those before them must be there."""
        self.run = run
        self.tries = tries
        self.failures: dict[Task, list[str]] = {}
        self.set_aside: dict[Task, str] = {}
        self._steps = {step.name: step for step in run.recipe.enabled()}
        self._order = {name: number for number, name in enumerate(self._steps)}
        self._done: set[Task] = set(self._committed())
        wanted = self._steps if only is None else {name: self._steps[name] for name in only}
        self._open = {task for name in wanted for task in self._tasks(name)} - self._done
        self._counts = Counter(task.step for task in self._done if task.shard is not None)
        self._ready: list[tuple[int, int, Task]] = []
        for task in self._open:
            self._offer(task)

    @property
    def left(self) -> int:
        """Tasks that are neither finished nor set aside."""
        return len(self._open)

    def counts(self) -> dict[str, int]:
        """Finished shards of each pass."""
        return {name: self._counts[name] for name in self._steps}

    def ready(self) -> Iterator[Task]:
        """Takes tasks that can start now, one by one."""
        while self._ready:
            yield heapq.heappop(self._ready)[2]

    def put_back(self, task: Task) -> None:
        """A task that was taken and not done, for no fault of its own."""
        self._offer(task)

    def finished(self, task: Task) -> None:
        """A task was committed: offer what waited for it."""
        self._done.add(task)
        self._open.discard(task)
        if task.shard is not None:
            self._counts[task.step] += 1
        for other in self._followers(task):
            if other in self._open:
                self._offer(other)

    def failed(self, task: Task, error: str) -> None:
        """A task raised or its worker died: it is offered again, or after `tries` times set aside, with all its errors
        in a file beside where its output would be.
        """
        self.failures.setdefault(task, []).append(error)
        if len(self.failures[task]) < self.tries:
            self._offer(task)
            return
        self._open.discard(task)
        self.set_aside[task] = error
        shard = "reduced" if task.shard is None else self.run.shards[task.shard].name
        path = self.run.store.error(self.run.recipe.pass_key(task.step), shard)
        write_json(path, {"step": task.step, "shard": shard, "errors": self.failures[task]})

    def _tasks(self, name: str) -> Iterator[Task]:
        if self._steps[name].reduce:
            yield Task(name, None)
        for number in range(len(self.run.shards)):
            yield Task(name, number)

    def _committed(self) -> Iterator[Task]:
        for name, step in self._steps.items():
            folder = self.run.store.folder(self.run.recipe.pass_key(name))
            there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
            if step.reduce and self.run.reduced(name).name in there:
                yield Task(name, None)
            for number, shard in enumerate(self.run.shards):
                if f"{shard.name}.parquet" in there:
                    yield Task(name, number)

    def _offer(self, task: Task) -> None:
        if self._inputs_exist(task):
            heapq.heappush(self._ready, (-self._order[task.step], -1 if task.shard is None else task.shard, task))

    def _inputs_exist(self, task: Task) -> bool:
        step = self._steps[task.step]
        if task.shard is None:
            return all(self._counts[source] == len(self.run.shards) for source in step.reduces)
        needs = [Task(parent, task.shard) for parent in step.parents]
        if step.reduce:
            needs.append(Task(task.step, None))
        return all(need in self._done for need in needs)

    def _followers(self, task: Task) -> Iterator[Task]:
        for name, step in self._steps.items():
            if task.shard is None:
                if name == task.step:
                    yield from (Task(name, number) for number in range(len(self.run.shards)))
                continue
            if task.step in step.parents:
                yield Task(name, task.shard)
            if task.step in step.reduces and self._counts[task.step] == len(self.run.shards):
                yield Task(name, None)


def run_task(run: Run, task: Task, models: dict[str, Any]) -> ShardStats | None:
    """Do one task in this process; see `run_shard` and `run_reduce`. A look at the whole collection returns a
    `ShardStats` without rows.
    """
    if task.shard is not None:
        return run_shard(run, task.step, run.shards[task.shard], models)
    run_reduce(run, task.step)
    return ShardStats(task.step, "", 0) if run.reduced(task.step).exists() else None


def attempt(run: Run, task: Task, models: dict[str, Any]) -> tuple[str, Any]:
    """`run_task` in a worker, and what its supervisor is told: ("done", statistics), ("busy", None) while another
    process is at it, ("stop", why the run cannot go on) or ("failed", traceback).
    """
    try:
        stats = run_task(run, task, models)
    except StopRun as error:
        return "stop", str(error)
    except Exception:
        return "failed", traceback.format_exc()
    return ("busy", None) if stats is None else ("done", stats)
