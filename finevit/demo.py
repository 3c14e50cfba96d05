"""`make demo`: corpus, fine-tuning, evaluation seen and blind, report; the whole path on two CPU cores.

It starts from the nano checkpoint in `model_cards/finevit-vl-nano`, which this project trained with its own scripts on
dense tasks over other rows of the same generators. The generators hold out by the hash of a value, a pair or
an arrangement (see the corpus's card), whatever the seed, so what is test here was not in the training of either.
"""

import json
import shutil
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from finecap.corpus.build import build_corpus
from finecap.files import write_json
from finevit.launching import REPOSITORY, cpu_processes, launch
from finevit_eval.report.examples import pick_examples
from finevit_eval.report.report import write_report
from finevit_eval.report.runs import gather
from finevit_eval.result import Settings
from finevit_eval.run import evaluate

BASE = REPOSITORY / "model_cards" / "finevit-vl-nano"
SCRIPT = REPOSITORY / "training_scripts" / "vl_sft.py"
RECIPE = REPOSITORY / "training_scripts" / "finevit_training" / "recipes" / "sft" / "nano_cpu.yaml"

ROWS = 12_000
KINDS = {"doc": 1.0, "chart": 1.0, "scene": 1.0, "easyvqa": 1.0}
SEED = 1
"""The base checkpoint saw seed 0."""
QUESTIONS = 1000
"""Most questions of each task; a test split with fewer asks all it has."""
EXAMPLES = 12
MARK = ".finevit_demo"
"""Lies in every folder that the demo made; it writes over no other."""


def run_demo(out: Path) -> int:
    """Write `results.json`, `report.html`, `model/` and `corpus/` below `out` and print the table.

    Nothing is fetched. `finevit demo` sets HF_HUB_OFFLINE before anything is imported that reads it; who calls this
    function and wants the same guarantee sets it before Python starts.

    Returns:
        0, the exit status.

    Raises:
        ValueError: it is not run from a checkout of the repository, which holds the scripts and the base checkpoint,
            or `out` holds files that the demo did not write.
        RuntimeError: training or evaluation failed.
    """
    for needed in (BASE / "config.json", SCRIPT, RECIPE):
        if not needed.is_file():
            raise ValueError(f"{needed} is missing; the demo runs from a checkout of the repository, with `make demo`")
    claim(out)
    seconds: dict[str, float] = {}
    with timed("corpus", seconds):
        build_corpus(out / "corpus", ROWS, seed=SEED, difficulty="nano", kinds=KINDS)
    with timed("training", seconds):
        train(out / "corpus", out / "model")
    for name, model, blind in (
        ("base", BASE, False),
        ("sighted", out / "model", False),
        ("blind", out / "model", True),
    ):
        with timed(f"evaluation, {name}", seconds):
            evaluate(
                model,
                out / "corpus",
                out / "eval" / name,
                settings=Settings(limit=QUESTIONS, batch_size=64, blind=blind, dtype="float32"),
            )
    (run,) = gather([out / "eval" / "sighted", out / "eval" / "blind"], out / "eval" / "base")
    curve = json.loads((out / "model" / "training_curve.json").read_text())
    write_report([run], pick_examples([run], EXAMPLES), out / "report.html", curve)
    write_json(out / "results.json", {**run.results, "seconds": seconds})
    print(table(run.results["tasks"]))
    print(f"{out / 'report.html'}, {out / 'results.json'}; {sum(seconds.values()) / 60:.1f} minutes without set-up")
    return 0


def claim(out: Path) -> None:
    """Makes `out` the demo's, or refuses: a demo begins anew and removes the model of the one before.

    Raises:
        ValueError: `out` holds files that the demo did not write.
    """
    out = out.resolve()  # `new/../there` is not there before `new` is
    if out.exists() and not (out / MARK).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} holds files that the demo did not write; give --out a new or an empty folder")
    out.mkdir(parents=True, exist_ok=True)
    (out / MARK).touch()


@contextmanager
def timed(stage: str, seconds: dict[str, float]) -> Generator[None]:
    """Announces a stage and notes how long it took."""
    print(f"== {stage}", flush=True)
    start = time.monotonic()
    yield
    seconds[stage] = round(time.monotonic() - start, 1)
    print(f"== {stage}: {seconds[stage]:.0f} s", flush=True)


def train(corpus: Path, out: Path) -> None:
    """Fine-tunes the base checkpoint with the same command that a user types, see docs/train.md."""
    if out.exists():
        shutil.rmtree(out)
    processes = cpu_processes()
    rows = yaml.safe_load(RECIPE.read_text())["per_device_train_batch_size"] // processes
    flags = ["--recipe", str(RECIPE), "--model", str(BASE), "--data", str(corpus), "--output_dir", str(out)]
    launch(SCRIPT, [*flags, "--per_device_train_batch_size", str(rows)], processes)


def table(tasks: dict[str, dict[str, Any]]) -> str:
    """The results as text."""
    lines = [f"{'task':<10} {'metric':<17} {'n':>5} {'score':>7} {'95 %':>13} {'blind':>7} {'gain':>7} {'base':>7}"]
    for name, task in tasks.items():
        score, blind, base = (task[key] for key in ("score", "blind_score", "base_score"))
        interval = "-".join(f"{end:.3f}" for end in task["interval"])
        scores = f"{score:>7.3f} {interval:>13} {blind:>7.3f} {score - blind:>7.3f} {base:>7.3f}"
        lines.append(f"{name:<10} {task['metric']:<17} {task['n']:>5} {scores}")
    return "\n".join(lines)
