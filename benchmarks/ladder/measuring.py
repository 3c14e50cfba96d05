"""Scores of the finished runs of a ladder, by `finevit_eval`; none is measured twice."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.ladder.arms import CORPUS, Run
from benchmarks.ladder.running import Ladder, read_steps
from benchmarks.measuring import progress
from finecap.files import write_json
from finevit_eval.result import Settings
from finevit_eval.run import evaluate
from finevit_training.checkpoint import CURVE_FILE

QUESTIONS = ("doc", "chart", "grounding", "easyvqa")
RETRIEVAL = ("t2i_short", "i2t_short", "t2i_dense", "i2t_dense")
LEAST_POOL = 1000
"""Of a ladder that is more than a smoke test: in a smaller pool R@1 says little."""
Scores = dict[str, Any]
"""Of a run: `{"tasks": {name: {"n", "score", "interval"}}, "readings": [...]}`, see `_readings`."""


def measure(ladder: Ladder, run: Run) -> Scores | None:
    """What a run scored, from its file or measured now; None of stage I and III, whose models answer nothing yet."""
    if run.script not in ("contrastive", "vl_sft"):
        return None
    path = ladder.own / "scores" / f"{run.name}.json"
    if path.exists():
        return json.loads(path.read_text())
    progress(f"seed {ladder.seed}: {run.name} is measured")
    if run.script == "contrastive":
        readings = _readings(ladder, run)
        scores: Scores = {"tasks": readings[-1]["tasks"], "readings": readings}
    else:
        names = QUESTIONS if run.data == CORPUS else QUESTIONS[:1]
        scores = {"tasks": _tasks(ladder, run, ladder.own / run.name, names, ladder.size.questions)}
    write_json(path, scores)
    return scores


def _readings(ladder: Ladder, run: Run) -> list[dict[str, Any]]:
    """Retrieval and loss at `READ_AT` of a run of stage II: share, step, samples, FLOPs, loss, tasks."""
    out, trained = ladder.own / run.name, ladder.receipt(run.name)["trained"]
    curve = json.loads((out / CURVE_FILE).read_text())
    readings = []
    for step, share in read_steps(trained["steps"]).items():
        model = out if step == trained["steps"] else out / f"checkpoint-{step}"
        tasks = _tasks(ladder, run, model, RETRIEVAL, ladder.size.pool)
        _check_pool(ladder, tasks)
        logged = [entry["loss"] for entry in curve if entry["step"] <= step]
        readings.append(
            {
                "share": share,
                "step": step,
                "samples": round(trained["samples"] * step / trained["steps"]),
                "flops": trained["flops"] * step / trained["steps"],
                "loss": logged[-1],
                "tasks": tasks,
            }
        )
    return readings


def _tasks(ladder: Ladder, run: Run, model: Path, names: tuple[str, ...], limit: int) -> dict[str, Any]:
    settings = Settings(limit=limit, batch_size=64, dtype="float32")
    out = ladder.own / "evaluations" / model.relative_to(ladder.own)
    results = evaluate(model, ladder.data / run.data, out, names, settings)
    kept = ("n", "score", "interval", "controls")
    return {name: {key: task[key] for key in kept if key in task} for name, task in results["tasks"].items()}


def _check_pool(ladder: Ladder, tasks: Mapping[str, Any]) -> None:
    """Raises RuntimeError where a pool is too small to tell anything."""
    small = {name: task["n"] for name, task in tasks.items() if task["n"] < LEAST_POOL}
    if small and ladder.size_name != "smoke":
        raise RuntimeError(f"retrieval among {small} pairs; expected {LEAST_POOL} at least: the corpus is too small")
