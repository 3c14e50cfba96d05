"""The training curve as an SVG that takes its colours from the page."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from finevit_eval.report.axes import Axes, linear_ticks, path, short_number

AXES = Axes(720, 300)
SMOOTHING = 40
"""The line is a moving mean over a fortieth of the run; every logged loss stays visible behind it."""


def curve_svg(curve: Sequence[Mapping[str, Any]]) -> str:
    """Draw loss over steps, on a logarithmic axis.

    Args:
        curve: Dicts with "step" and "loss"; those without a finite, positive loss are passed over.

    Returns:
        An `<svg>` element, or "" when fewer than two points can be drawn.
    """
    points = sorted(
        (float(row["step"]), float(row["loss"]))
        for row in curve
        if "step" in row
        and isinstance(row.get("loss"), (int, float))
        and math.isfinite(row["loss"])
        and row["loss"] > 0
    )
    if len(points) < 2 or points[0][0] == points[-1][0]:
        return ""
    steps, losses = zip(*points, strict=True)
    y_ticks = _log_ticks(min(losses), max(losses))
    x_of = AXES.across(steps[0], steps[-1])
    y_of = AXES.upwards(math.log(min(*losses, y_ticks[0])), math.log(max(*losses, y_ticks[-1])))
    raw = path([(x_of(step), y_of(math.log(loss))) for step, loss in points])
    means = zip(steps, _moving_mean(losses), strict=True)
    smooth = path([(x_of(step), y_of(math.log(loss))) for step, loss in means])
    grid = "".join(AXES.tick_left(y_of(math.log(tick)), f"{tick:g}") for tick in y_ticks)
    grid += "".join(AXES.tick_below(x_of(tick), short_number(tick)) for tick in linear_ticks(steps[0], steps[-1]))
    label = f"Training loss from {losses[0]:.2f} at step {steps[0]:.0f} to {losses[-1]:.2f} at step {steps[-1]:.0f}"
    return (
        f'<svg class="curve" viewBox="0 0 {AXES.width} {AXES.height}" role="img" aria-label="{label}">{grid}'
        f'<path class="raw" d="{raw}"/><path class="smooth" d="{smooth}"/>{AXES.name_below("step")}</svg>'
    )


def _moving_mean(values: Sequence[float]) -> list[float]:
    half = len(values) // SMOOTHING // 2
    windows = (values[max(0, i - half) : i + half + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def _log_ticks(low: float, high: float) -> list[float]:
    """Ticks of 1, 2, 5 times powers of ten that cover the range, both ends included."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [m * 10.0**e for e in exponents for m in (1, 2, 5)]
    first = max((i for i, tick in enumerate(ticks) if tick <= low), default=0)
    last = min((i for i, tick in enumerate(ticks) if tick >= high), default=len(ticks) - 1)
    return ticks[first : last + 1]
