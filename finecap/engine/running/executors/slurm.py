"""A run as a chain of Slurm jobs: an array for each stretch of passes, one job for each look at the whole collection.

    ingest filter (array) -> dedup (one job) -> dedup ... boxes (array) -> balance (one job) -> ... pack -> finish

Each job waits for the one before (afterok). A task of an array does every count-th shard with the local executor, so a
dead worker's shard is tried again within it; a requeued task, and the same command given again, skip what is done.
Jobs keep the recipe that they were submitted with, whatever the folder is started with meanwhile.
The run's folder, the input and this Python must lie under the same paths on every node. Partition, account, time and
memory are Slurm's to set: SBATCH_PARTITION, SBATCH_ACCOUNT, SBATCH_TIMELIMIT, ... in the environment of the submitter.
"""

from __future__ import annotations

import argparse
import hashlib
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from finecap.engine.recipe import HASH_LENGTH, Recipe
from finecap.engine.reporting.publish import finish
from finecap.engine.running.executors.local import run_locally
from finecap.engine.running.one_shard import Run
from finecap.engine.running.opening import RECIPE, load_run
from finecap.engine.running.scheduler import Schedule, Task, run_task
from finecap.errors import StopRun
from finecap.files import write_text

# Tasks of an array; Slurm's own limit is 1,000 unless the site raised MaxArraySize.
ARRAY_TASKS = 100


class Stage(NamedTuple):
    """A look of `reduce` at the whole collection, if there is one, and then passes that go shard by shard."""

    reduce: str | None
    passes: tuple[str, ...]


class Job(NamedTuple):
    """One sbatch script; `size` is the number of tasks of an array, None for a job that is none."""

    name: str
    script: Path
    size: int | None


def stages(recipe: Recipe) -> list[Stage]:
    """The passes, cut before each one that must see the whole collection first."""
    found: list[Stage] = []
    for step in recipe.enabled():
        if step.reduce or not found:
            found.append(Stage(step.name if step.reduce else None, ()))
        found[-1] = Stage(found[-1].reduce, (*found[-1].passes, step.name))
    return found


def submit(run: Run, tasks: int = ARRAY_TASKS, workers: int = 1, tries: int = 3) -> dict[str, str]:
    """Submit what is left of a run, each job behind the one before.

    Args:
        run: as `open_run` made it: jobs read the recipe and the plan from its folder.
        tasks: of each array, at most; all of them may be asking the captioners at once.
        workers: processes, and CPUs, of each task.

    Returns:
        Slurm's id of each job, by its name.

    Raises:
        ValueError: there is no Slurm on this machine, or it refused a job; says why.
    """
    sbatch = shutil.which("sbatch")
    if sbatch is None:
        raise ValueError("--executor slurm needs the command sbatch: submit from a login node of the cluster")
    ids: dict[str, str] = {}
    for job in write_jobs(run, tasks, workers, tries):
        waits = [f"--dependency=afterok:{list(ids.values())[-1]}", "--kill-on-invalid-dep=yes"] if ids else []
        answer = subprocess.run([sbatch, "--parsable", *waits, str(job.script)], capture_output=True, text=True)
        if answer.returncode != 0:
            before = f" (submitted before it: {', '.join(ids.values())})" if ids else ""
            raise ValueError(f"sbatch refused {job.script}{before}: {answer.stderr.strip()}")
        ids[job.name] = answer.stdout.strip().split(";")[0]
    return ids


def write_jobs(run: Run, tasks: int = ARRAY_TASKS, workers: int = 1, tries: int = 3) -> list[Job]:
    """Write the scripts of what is left into OUT/slurm, in the order in which they must run, and the run's recipe."""
    folder = run.store.out.absolute() / "slurm"
    text = (run.store.out / RECIPE).read_text(encoding="utf-8")
    recipe = folder / f"recipe-{hashlib.sha256(text.encode()).hexdigest()[:HASH_LENGTH]}.yaml"
    write_text(recipe, text)
    jobs: list[Job] = []
    for name, arguments, size in _parts(run, tasks, workers, tries):
        job = Job(f"{len(jobs) + 1}-{name}", folder / f"{len(jobs) + 1}-{name}.sbatch", size)
        bound = [*arguments, "--recipe", str(recipe)]
        write_text(job.script, _script(run, job, bound, workers if size else 1))
        jobs.append(job)
    return jobs


def _parts(run: Run, tasks: int, workers: int, tries: int) -> Iterator[tuple[str, list[str], int | None]]:
    """Name, arguments for `main` and size of the array of each job."""
    for stage in stages(run.recipe):
        if stage.reduce and not run.reduced(stage.reduce).exists():
            yield f"{stage.reduce}-all", ["reduce", stage.reduce], None
        if Schedule(run, only=stage.passes).left:
            size = max(1, min(tasks, len(run.shards)))
            limits = ["--count", str(size), "--workers", str(workers), "--tries", str(tries)]
            yield "-".join(stage.passes), ["passes", *stage.passes, *limits], size
    yield "finish", ["finish"], None


def _script(run: Run, job: Job, arguments: list[str], cpus: int) -> str:
    out = run.store.out.absolute()
    command = shlex.join([sys.executable, "-m", "finecap.engine.running.executors.slurm", str(out), *arguments])
    index = ' --index "$SLURM_ARRAY_TASK_ID"' if job.size else ""
    array = f"#SBATCH --array=0-{job.size - 1}\n" if job.size else ""
    log = f"{out}/slurm/%x-{'%A_%a' if job.size else '%j'}.log"
    return (
        "#!/bin/bash\n"
        f"#SBATCH --job-name=finecap-{job.name}\n"
        f"{array}"
        f"#SBATCH --cpus-per-task={cpus}\n"
        f'#SBATCH --output="{log}"\n'
        "#SBATCH --open-mode=append\n"
        "#SBATCH --requeue\n"
        f"exec {command}{index}\n"
    )


def run_slurm_task(
    run: Run, passes: Sequence[str], index: int, count: int, workers: int = 1, tries: int = 3
) -> Schedule:
    """Do passes over every `count`-th shard, beginning with number `index`.

    Raises:
        StopRun: a look at the whole collection is still to come, or the run as a whole cannot go on.
    """
    for step in map(run.recipe.step, passes):
        if step.reduce and not run.reduced(step.name).exists():
            raise StopRun(f"{step.name} has not looked at the whole collection yet: that is the job before this one")
    part = Run(run.recipe, run.store, run.shards[index::count])
    schedule = run_locally(part, workers, tries, only=passes)
    if schedule.set_aside or schedule.left:
        raise StopRun(
            f"{len(schedule.set_aside)} shards were set aside after {tries} tries, so the jobs behind this one are "
            f"cancelled. See why with `finevit caption status {run.store.out}`, then submit again."
        )
    return schedule


def run_slurm_reduce(run: Run, name: str) -> None:
    """Let one pass look at the whole collection.

    Raises:
        StopRun: shards that it must see are missing, or another job is at it.
    """
    needs = [run.output(source, shard.name) for source in run.recipe.step(name).reduces for shard in run.shards]
    if missing := [path for path in needs if not path.exists()]:
        raise StopRun(
            f"{name} must see the whole collection, and {len(missing)} outputs are missing: {missing[0]}, ..."
        )
    if run_task(run, Task(name, None), {}) is None:
        raise StopRun(f"{name}: another job of this run is looking at the collection; wait for it")


def main(arguments: Sequence[str] | None = None) -> None:
    """What the jobs call: OUT passes NAME... --index I --count N | OUT reduce NAME | OUT finish."""
    parser = argparse.ArgumentParser(prog="python -m finecap.engine.running.executors.slurm")
    parser.add_argument("out", type=Path)
    parser.add_argument("action", choices=("passes", "reduce", "finish"))
    parser.add_argument("names", nargs="*")
    for name, default in (("--index", 0), ("--count", 1), ("--workers", 1), ("--tries", 3)):
        parser.add_argument(name, type=int, default=default)
    parser.add_argument("--recipe", type=Path)
    a = parser.parse_args(arguments)
    run = load_run(a.out, a.recipe)
    try:
        if a.action == "passes":
            run_slurm_task(run, a.names, a.index, a.count, a.workers, a.tries)
        elif a.action == "reduce":
            run_slurm_reduce(run, a.names[0])
        else:
            print(finish(run))
    except StopRun as error:
        sys.exit(f"finecap: {error}")


if __name__ == "__main__":
    main()
