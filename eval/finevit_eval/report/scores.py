"""Scores as tables: by suite for people, and in long form as JSON and CSV."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from finecap.files import write_json, write_text
from finevit_eval.report.runs import Run
from finevit_eval.suite import EVALUATIONS

ENTRY = {
    "metric",
    "n",
    "score",
    "interval",
    "controls",
    "blind_score",
    "blind_interval",
    "base_score",
    "base_interval",
}
"""What an entry of the results holds besides further scores."""
FLOORS = ("blind", "shuffled", "chance", "most_common", "whole_picture")
COLUMNS = ("suite", "evaluation", "model", "run", "samples_seen", "metric", "n", "name", "value", "low", "high")
OTHER_SUITE = "other"


def suite_of(name: str) -> str:
    """The suite of an evaluation; one that is not in the list any more has none."""
    return EVALUATIONS[name].suite if name in EVALUATIONS else OTHER_SUITE


def title_of(name: str) -> str:
    """An evaluation's name for people."""
    return EVALUATIONS[name].title if name in EVALUATIONS else name


def suite_tables(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One table for each suite: `{"suite", "rows", "controls", "others", "has_models", "has_blind", "has_base"}`.

    "controls" and "others" name columns. A further score that only some rows have gets no column but stands in the
    row's "more".
    """
    tables = []
    names = list(dict.fromkeys(name for run in runs for name in (*run.results["tasks"], *run.results["failed"])))
    for suite in dict.fromkeys(map(suite_of, names)):
        mine = [name for name in names if suite_of(name) == suite]
        entries = [run.results["tasks"][name] for name in mine for run in runs if name in run.results["tasks"]]
        others = [set(others_of(entry)) for entry in entries]
        shared = [name for name in others_of(entries[0]) if all(name in one for one in others)] if entries else []
        tables.append(
            {
                "suite": suite,
                "controls": list(dict.fromkeys(name for entry in entries for name in entry.get("controls", {}))),
                "others": shared,
                "has_models": len({run.label for run in runs}) > 1,
                "has_blind": any("blind_score" in entry for entry in entries),
                "has_base": any("base_score" in entry for entry in entries),
                "rows": [row for name in mine for row in _rows_of(name, runs, shared)],
            }
        )
    return tables


def samples_of(run: Run) -> int | None:
    """What the run's model was trained on, if its receipt says so."""
    return run.results["receipts"]["score"].get("samples")


def _rows_of(name: str, runs: Sequence[Run], shared: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of an evaluation, checkpoints in the order of their training; the first alone has the title."""
    rows = [row for run in sorted(runs, key=lambda run: samples_of(run) or 0) for row in _rows(name, run, shared)]
    rows[0] |= {"title": title_of(name), "models": len(rows)}
    return rows


def others_of(entry: Mapping[str, Any]) -> dict[str, float]:
    """Further scores of an entry of the results, besides its headline."""
    return {name: value for name, value in entry.items() if name not in ENTRY}


def _rows(name: str, run: Run, shared: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The row of an evaluation in a run, if it is there: scores as text, or why there is none."""
    row: dict[str, Any] = {"model": run.label}
    if reason := run.results["failed"].get(name):
        yield row | {"failed": reason}
    if name not in run.results["tasks"]:
        return
    task = run.results["tasks"][name]
    others = others_of(task)
    row |= {"metric": task["metric"], "n": f"{task['n']:,}", "score": f"{task['score']:.3f}"}
    row["interval"] = "–".join(f"{end:.3f}" for end in task["interval"])
    low, high = task["interval"]
    row |= {"low": f"{100 * low:.1f}", "reach": f"{100 * (high - low):.1f}"}
    row["controls"] = {control: f"{value:.3f}" for control, value in task.get("controls", {}).items()}
    row["others"] = {other: f"{others[other]:.3f}" for other in shared}
    row["more"] = [f"{other} {value:.3f}" for other, value in others.items() if other not in shared]
    row["percent"] = f"{100 * task['score']:.1f}"
    if "blind_score" in task:
        gain = task["score"] - task["blind_score"]
        row |= {"blind": f"{task['blind_score']:.3f}", "gain": f"{gain:+.3f}".replace("-", "−")}
    if "base_score" in task:
        row["base"] = f"{task['base_score']:.3f}"
    if (floor := floor_of(task)) is not None:
        row["floor_percent"] = f"{100 * floor:.1f}"
    yield row


def floor_of(task: Mapping[str, Any]) -> float | None:
    """What an evaluation gives without seeing: the highest of its controls that tell so; None without any."""
    values = {"blind": task.get("blind_score"), **task.get("controls", {})}
    return max((value for name in FLOORS if (value := values.get(name)) is not None), default=None)


def write_tables(runs: Sequence[Run], beside: Path) -> None:
    """Write `<beside>.json`, all results with their receipts by run, and `<beside>.csv`, one line for each figure."""
    whole = {"runs": [{"model": run.label, "run": run.folder.name, **run.results} for run in runs]}
    write_json(beside.with_suffix(".json"), whole)
    text = io.StringIO()
    lines = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    lines.writeheader()
    lines.writerows(line for run in runs for name in run.results["tasks"] for line in _lines(name, run))
    write_text(beside.with_suffix(".csv"), text.getvalue())


def _lines(name: str, run: Run) -> Iterator[dict[str, Any]]:
    task = run.results["tasks"][name]
    same: dict[str, Any] = {"suite": suite_of(name), "evaluation": name, "model": run.label, "run": run.folder.name}
    same |= {"samples_seen": samples_of(run), "metric": task["metric"], "n": task["n"]}
    for key, kind in (("", "score"), ("blind_", "blind"), ("base_", "base")):
        if f"{key}score" in task:
            low, high = task[f"{key}interval"]
            yield same | {"name": kind, "value": task[f"{key}score"], "low": low, "high": high}
    for other, value in (others_of(task) | task.get("controls", {})).items():
        yield same | {"name": other, "value": value}
