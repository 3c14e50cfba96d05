"""Progress bars on a terminal, one for each pass; nothing where there is none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from contextlib import ExitStack, contextmanager

from tqdm import tqdm

from finecap.engine.running.executors.local import Report
from finecap.engine.running.one_shard import Run, ShardStats
from finecap.engine.running.scheduler import Schedule


@contextmanager
def progress_bars(run: Run) -> Generator[Report]:
    """Yields the function that an executor calls with its schedule and the statistics of each finished task."""
    with ExitStack() as stack:
        bars = {
            step.name: stack.enter_context(
                tqdm(total=len(run.shards), desc=step.name, unit="shard", position=number, disable=None, leave=True)
            )
            for number, step in enumerate(run.recipe.enabled())
        }
        rows: Counter[str] = Counter()
        rejects: Counter[str] = Counter()

        def report(schedule: Schedule, stats: ShardStats | None) -> None:
            for name, count in schedule.counts().items():
                bars[name].update(count - bars[name].n)
            if stats is not None:
                rows[stats.name] += stats.rows
                rejects[stats.name] += sum(stats.rejects.values())
                bars[stats.name].set_postfix(rows=rows[stats.name], rejects=rejects[stats.name])

        yield report
