"""Trains the runs of a ladder by the real scripts: what is done stays done, what was killed goes on."""

import json
import math
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.ladder.arms import CORPUS, Run, arms, recipe_of, steps_of
from benchmarks.ladder.pages import build_pages
from benchmarks.ladder.sizes import READ_AT, SAVES, SIZES, Size
from benchmarks.measuring import progress
from finecap.corpus.build import build_corpus
from finecap.files import write_text
from finevit.launching import REPOSITORY, cpu_processes, ending_with_us, start
from finevit_training.checkpoint import RECEIPT_FILE
from finevit_training.loop.keeping import checkpoints

CORPUS_SEED = 0
POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Ladder:
    """One seed of a ladder.

    Attributes:
        folder: of the size; holds the data, which all seeds share, and a folder for each seed.
    """

    size_name: str
    seed: int
    folder: Path

    @property
    def size(self) -> Size:
        """Its numbers."""
        return SIZES[self.size_name]

    @property
    def runs(self) -> dict[str, Run]:
        """Its runs by their names."""
        return arms(self.size)

    @property
    def data(self) -> Path:
        """Where the corpora are."""
        return self.folder / "data"

    @property
    def own(self) -> Path:
        """Where this seed's runs are."""
        return self.folder / f"seed-{self.seed}"

    def receipt(self, name: str) -> dict[str, Any]:
        """Of a finished run."""
        return json.loads((self.own / name / RECEIPT_FILE).read_text())


def build_data(ladder: Ladder) -> None:
    """Builds the corpus and the pages, or finishes them."""
    size = ladder.size
    build_corpus(ladder.data / CORPUS, size.rows, CORPUS_SEED, size.difficulty, report=progress)
    build_pages(ladder.data, size)


def train(ladder: Ladder, names: Sequence[str]) -> Iterator[Run]:
    """Trains runs, as many at once as there are cores for, and gives back each that is over.

    What was over before is not trained again, and what was killed goes on from its last checkpoint.

    Args:
        names: with those of all that they need.

    Raises:
        ValueError: a folder holds a run of another recipe.
        RuntimeError: a training failed; its log is named.
    """
    runs, room = ladder.runs, max(1, cpu_processes() // ladder.size.processes)
    waiting, over = list(names), set()
    going: dict[str, subprocess.Popen[bytes] | None] = {}
    with ending_with_us() as group:
        while waiting or going:
            ready = [name for name in waiting if over.issuperset(runs[name].needs)]
            for name in ready[: room - len(going)]:
                waiting.remove(name)
                going[name] = begin(ladder, runs[name], group)
            for name in [name for name, process in going.items() if process is None or process.poll() is not None]:
                finish(ladder, runs[name], going.pop(name))
                over.add(name)
                yield runs[name]
            time.sleep(POLL_SECONDS)


def begin(ladder: Ladder, run: Run, group: int) -> subprocess.Popen[bytes] | None:
    """Starts or goes on with a training; None where it is over.

    Args:
        group: of processes, see `ending_with_us`.

    Raises:
        ValueError: the folder holds a run of another recipe.
    """
    out, steps = ladder.own / run.name, planned_steps(ladder, run)
    recipe = recipe_of(run, ladder.size, ladder.own, ladder.data, ladder.seed, steps)
    path = out.with_suffix(".yaml")
    if path.exists() and yaml.safe_load(path.read_text()) != recipe:
        raise ValueError(f"{path} is the recipe of another ladder; give another --out, or remove {ladder.folder}")
    if (out / RECEIPT_FILE).exists():
        return None
    write_text(path, yaml.safe_dump(recipe, sort_keys=False))
    progress(f"seed {ladder.seed}: {run.name} is trained for {steps} steps")
    processes = min(ladder.size.processes, cpu_processes())
    rows = recipe["per_device_train_batch_size"] // processes
    flags = ["--recipe", str(path), "--per_device_train_batch_size", str(rows)]
    flags += ["--resume_from_checkpoint", "last-or-start"]
    with out.with_suffix(".log").open("a") as log:
        return start(REPOSITORY / "training_scripts" / f"{run.script}.py", flags, processes, group, log)


def finish(ladder: Ladder, run: Run, process: subprocess.Popen[bytes] | None) -> None:
    """Checks a training that is over, and keeps of its checkpoints those that are measured.

    Args:
        process: what `begin` gave.

    Raises:
        RuntimeError: it failed, or did not do what it should.
    """
    out = ladder.own / run.name
    if process and process.returncode:
        raise RuntimeError(f"{run.name} ended with status {process.returncode}; see {out.with_suffix('.log')}")
    trained, steps = ladder.receipt(run.name)["trained"], planned_steps(ladder, run)
    loss = trained["last_loss"]
    if trained["steps"] != steps or not trained["flops"] or loss is None or not math.isfinite(loss):
        raise RuntimeError(f"{run.name} ended after {trained['steps']} of {steps} steps, with the loss {loss}")
    for step, folder in checkpoints(out).items():
        if run.script != "contrastive" or step not in read_steps(steps):
            shutil.rmtree(folder)


def planned_steps(ladder: Ladder, run: Run) -> int:
    """Optimizer steps of a run, with those that it spends another one's FLOPs on."""
    steps = steps_of(run, ladder.size)
    if run.pays_for is None:
        return steps
    paid, own = (ladder.receipt(name)["trained"] for name in run.pays_for)
    return more_steps(steps, paid, own)


def more_steps(steps: int, paid: Mapping[str, Any], own: Mapping[str, Any]) -> int:
    """So many steps and those that another run's FLOPs pay for, up to a multiple of `SAVES`.

    Args:
        paid, own: what receipts say of the other run, and of a run with steps like these, under "trained".
    """
    more = paid["flops"] / (own["flops"] / own["steps"])
    return math.ceil((steps + more) / SAVES) * SAVES


def read_steps(steps: int) -> dict[int, float]:
    """The steps of a run of stage II after which it is measured, with the share that each is."""
    return {round(share * steps): share for share in READ_AT}
