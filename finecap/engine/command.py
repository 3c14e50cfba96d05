"""What `finevit caption` does: begin or go on with a run, carry it out somewhere, report and publish."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path

from finecap.engine.recipe import load_recipe, read_mapping
from finecap.engine.reporting.pricing import assumptions_from, format_price, price
from finecap.engine.reporting.progress import progress_bars
from finecap.engine.reporting.publish import finish
from finecap.engine.reporting.status import format_status, summarise
from finecap.engine.running.executors import slurm
from finecap.engine.running.executors.local import run_locally
from finecap.engine.running.one_shard import Run
from finecap.engine.running.opening import leave_out, load_run, open_run
from finecap.engine.running.scheduler import Schedule
from finecap.errors import StopRun


def caption(
    recipe_file: str | Path,
    source: Path,
    out: Path,
    executor: str = "local",
    workers: int | None = None,
    tries: int = 3,
    only: Collection[str] | None = None,
    leave_out_failed: bool = False,
) -> Run:
    """Caption a collection of images, or go on where an earlier start of the same run ended.

    Args:
        source: folder of pictures, parquet files or WebDataset archives.
        executor: "local" for processes on this machine, "ray" for a Ray cluster (RAY_ADDRESS) or a local one.
        workers: processes or Ray CPUs; all cores by default.
        tries: how often a pass over a shard is begun before it is set aside.
        only: names of the passes to do; nothing is published then.
        leave_out_failed: go on without the shards that failed, for good.

    Raises:
        ValueError: bad recipe or input; as StopRun: the run cannot go on, with what to do about it.
    """
    recipe = load_recipe(recipe_file)
    known = [step.name for step in recipe.enabled()]
    if unknown := sorted(set(only or ()) - set(known)):
        raise ValueError(f"the recipe runs no pass {unknown[0]!r}; it runs {', '.join(known)}")
    run = open_run(recipe, source, out)
    workers = workers or os.cpu_count() or 1
    schedule = _carry_out(run, executor, workers, tries, only)
    while leave_out_failed and (names := _failed_shards(schedule)):
        run = leave_out(run, names)
        schedule = _carry_out(run, executor, workers, tries, only)
    _check_finished(schedule)
    if only is None:
        finish(run)
    return run


def submit(recipe_file: str | Path, source: Path, out: Path, workers: int = 1, tries: int = 3) -> str:
    """Submit a run, or what is left of it, to Slurm; the names and ids of its jobs, a line each.

    Raises:
        ValueError: bad recipe or input, or no Slurm here.
    """
    ids = slurm.submit(open_run(load_recipe(recipe_file), source, out), workers=workers, tries=tries)
    return "\n".join(f"{job} {name}" for name, job in ids.items())


def status(out: Path, as_json: bool = False) -> str:
    """How far the run in a folder is, as a table or as JSON.

    Raises:
        ValueError: no run is there.
    """
    summary = summarise(load_run(out))
    return json.dumps(asdict(summary), ensure_ascii=False, indent=1) if as_json else format_status(summary)


def price_of(recipe_file: str | Path, source: Path, assume: Path | None = None, as_json: bool = False) -> str:
    """What a run would cost, as a table or as JSON.

    Args:
        assume: YAML file with other values for the fields of `pricing.Assumptions`.

    Raises:
        ValueError: bad recipe, input or assumptions.
    """
    assumptions = assumptions_from(read_mapping(assume)) if assume else None
    found = price(load_recipe(recipe_file), source, assumptions)
    return json.dumps(asdict(found), ensure_ascii=False, indent=1) if as_json else format_price(found)


def _carry_out(run: Run, executor: str, workers: int, tries: int, only: Collection[str] | None) -> Schedule:
    with progress_bars(run) as report:
        if executor == "ray":
            from finecap.engine.running.executors.ray import run_on_ray

            return run_on_ray(run, workers, tries, only, report)
        return run_locally(run, workers, tries, only, report)


def _failed_shards(schedule: Schedule) -> list[str]:
    return [schedule.run.shards[task.shard].name for task in schedule.set_aside if task.shard is not None]


def _headline(error: str) -> str:
    """What a traceback says, without where."""
    return [line for line in error.splitlines() if line and not line.startswith((" ", "\t"))][-1]


def _check_finished(schedule: Schedule) -> None:
    """Raises StopRun when something is left."""
    if schedule.set_aside:
        lines = [
            f"  {task.step}, shard {'(all)' if task.shard is None else schedule.run.shards[task.shard].name}: "
            f"{_headline(error)}"
            for task, error in schedule.set_aside.items()
        ]
        raise StopRun(
            f"{len(lines)} times a shard was set aside after {schedule.tries} tries, and {schedule.left} tasks wait "
            f"for that. Whole errors are in {schedule.run.store.out}/passes/*/*.error.json. Remove the cause and run "
            "the same command again, or go on without those shards with --leave-out-failed.\n" + "\n".join(lines[:20])
        )
    if schedule.left:
        raise StopRun(f"{schedule.left} tasks wait for passes that were not asked for; run those first")
