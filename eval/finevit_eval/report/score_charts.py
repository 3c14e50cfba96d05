"""Scores over the samples that a model was trained on: one small chart for each evaluation of several checkpoints."""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from finevit_eval.report.axes import Axes, linear_ticks, path, short_number
from finevit_eval.report.runs import Run
from finevit_eval.report.scores import floor_of, samples_of, title_of

AXES = Axes(360, 220, left=44, right=18, top=14, bottom=52)


class Measure(NamedTuple):
    """A score of a checkpoint, 0-1, with its interval and what the evaluation gives without seeing."""

    samples: int
    score: float
    low: float
    high: float
    floor: float | None


def score_charts(runs: Sequence[Run]) -> list[dict[str, str]]:
    """`{"title", "metric", "svg"}` of each evaluation that runs with different numbers of samples share."""
    charts = []
    for name in dict.fromkeys(name for run in runs for name in run.results["tasks"]):
        measures = sorted(_measure(name, run) for run in runs if samples_of(run) is not None and _has(name, run))
        if len({measure.samples for measure in measures}) > 1:
            metric = next(run.results["tasks"][name]["metric"] for run in runs if _has(name, run))
            charts.append({"title": title_of(name), "metric": metric, "svg": _svg(measures, title_of(name))})
    return charts


def _has(name: str, run: Run) -> bool:
    return name in run.results["tasks"]


def _measure(name: str, run: Run) -> Measure:
    task = run.results["tasks"][name]
    return Measure(run.results["receipts"]["score"]["samples"], task["score"], *task["interval"], floor_of(task))


def _svg(measures: Sequence[Measure], title: str) -> str:
    first, last = measures[0].samples, measures[-1].samples
    top = max(0.1, *(measure.high for measure in measures))
    x_of, y_of = AXES.across(first, last), AXES.upwards(0.0, top)
    grid = "".join(AXES.tick_left(y_of(tick), f"{tick:.2g}") for tick in linear_ticks(0.0, top, 4))
    grid += "".join(AXES.tick_below(x_of(tick), short_number(tick)) for tick in linear_ticks(first, last, 4))
    upper = [(x_of(one.samples), y_of(one.high)) for one in measures]
    lower = [(x_of(one.samples), y_of(one.low)) for one in reversed(measures)]
    line = [(x_of(one.samples), y_of(one.score)) for one in measures]
    floor = [(x_of(one.samples), y_of(one.floor)) for one in measures if one.floor is not None]
    label = f"{title}: {measures[0].score:.3f} after {first:,} samples, {measures[-1].score:.3f} after {last:,}"
    dots = "".join(f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in line)
    return (
        f'<svg class="curve" viewBox="0 0 {AXES.width} {AXES.height}" role="img" aria-label="{escape(label)}">{grid}'
        f'<path class="band" d="{path([*upper, *lower])}Z"/>'
        + (f'<path class="floor" d="{path(floor)}"/>' if len(floor) > 1 else "")
        + f'<path class="smooth" d="{path(line)}"/>{dots}{AXES.name_below("samples seen")}</svg>'
    )
