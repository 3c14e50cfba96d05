"""Trainings that say what each step was trained on, and that kill themselves: the real script, watched.

`python watched_run.py FLAGS` is `python -m finevit_training.vl_sft FLAGS` watched, for launchers. `Watched` runs many
in processes that are forked from one which has imported everything.
"""

import json
import multiprocessing
import os
import signal
import socket
import sys
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from transformers import TrainerCallback

from finevit_training.loop import clock
from finevit_training.stages.sft import stage as sft
from finevit_training.vl_sft import main
from tests.support.launching import SMALLEST

HOOKS = ("on_pre_optimizer_step", "on_step_end", "on_save")
FOLDER = "FINEVIT_WATCHED"


class Kill(TrainerCallback):
    """SIGKILL at a step."""

    def __init__(self, step, hook):
        def strike(args, state, control, **kwargs):
            if state.global_step + (hook == HOOKS[0]) == step:
                os.kill(os.getpid(), signal.SIGKILL)

        setattr(self, hook, strike)


def watch(folder, kill=None, step_clock=False):
    """From here on trainings of this process write every micro-batch to a file of their rank."""
    if step_clock:
        seconds = count()
        clock.time = SimpleNamespace(monotonic=lambda: float(next(seconds)))
    build = sft.build_trainer

    def build_watched(recipe):
        trainer = build(recipe)
        path, told = Path(folder) / f"rank{trainer.args.process_index}.jsonl", trainer.stops.watch
        with path.open("a") as file:
            file.write('{"step": 0}\n')  # a run begins

        def tell(loss, ids, epochs):
            step, said = trainer.state.global_step + 1, loss.item()
            with path.open("a") as file:
                file.write(json.dumps({"step": step, "loss": said, "ids": ids, "epochs": epochs}) + "\n")
            told(loss, ids, epochs)

        trainer.stops.watch = tell
        if kill:
            trainer.add_callback(Kill(*kill))
        return trainer

    sft.STAGE = sft.STAGE._replace(build_trainer=build_watched)


def arguments(flags):
    return [
        part for key, value in {**SMALLEST, "cpu_threads": 1, **flags}.items() for part in (f"--{key}", str(value))
    ]


def _run(folder, flags, environment, kill, step_clock):
    os.environ.update(environment)
    with open(folder / f"output{environment['RANK']}.txt", "w") as output:
        for stream in (1, 2):
            os.dup2(output.fileno(), stream)
    watch(folder, kill, step_clock)
    sys.exit(main(arguments(flags)))


@dataclass
class Watched:
    """Runs into one folder, one after the other; each goes on from the last checkpoint.

    Attributes:
        folder: what is seen, and `out`, the run's own.
    """

    folder: Path

    def run(self, ranks=1, kill=None, step_clock=False, **flags):
        """Trains, and is ended as it has to be: well, or by the kill."""
        self.folder.mkdir(parents=True, exist_ok=True)
        flags = {
            "output_dir": self.folder / "out",
            "resume_from_checkpoint": "last-or-start",
            **flags,
        }
        context: Any = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        common = {"ACCELERATE_USE_CPU": "1", "WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
        common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
        processes = []
        for rank in range(ranks):
            environment = common | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            processes.append(context.Process(target=_run, args=(self.folder, flags, environment, kill, step_clock)))
            processes[-1].start()
        for process in processes:
            process.join()
        ended = [process.exitcode for process in processes]
        expected = -signal.SIGKILL if kill else 0
        assert ended == [expected] * ranks, (self.folder / "output0.txt").read_text()[-3000:]

    def runs(self):
        """The micro-batches of each run of each rank, in their order."""
        runs: list[list] = []
        for path in sorted(self.folder.glob("rank*.jsonl")):
            for batch in map(json.loads, path.open()):
                if batch["step"] == 0:
                    runs.append([])
                else:
                    runs[-1].append(batch)
        return runs

    def steps(self):
        """The micro-batches of every step, of all ranks, as they were trained last."""
        last: dict[int, list] = {}
        for path in sorted(self.folder.glob("rank*.jsonl")):
            mine: dict[int, list] = {}
            before: int | None = None
            for batch in map(json.loads, path.open()):
                if batch["step"] != before:
                    mine[batch["step"]] = []
                before = batch["step"]
                mine[before].append(batch)
            for step, batches in mine.items():
                if step:
                    last.setdefault(step, []).extend(batches)
        return last


def _free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


if __name__ == "__main__":
    watch(os.environ[FOLDER])
    sys.exit(main())
