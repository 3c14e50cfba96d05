"""The training curve as an SVG that takes its colours from the page."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

WIDTH, HEIGHT = 720, 300
LEFT, RIGHT, TOP, BOTTOM = 56, 20, 16, 56
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
    low, high = math.log(min(*losses, y_ticks[0])), math.log(max(*losses, y_ticks[-1]))

    def x_of(step: float) -> float:
        return LEFT + (step - steps[0]) / (steps[-1] - steps[0]) * (WIDTH - LEFT - RIGHT)

    def y_of(loss: float) -> float:
        return TOP + (high - math.log(loss)) / (high - low) * (HEIGHT - TOP - BOTTOM)

    raw = _path([(x_of(s), y_of(v)) for s, v in points])
    smooth = _path([(x_of(s), y_of(v)) for s, v in zip(steps, _moving_mean(losses), strict=True)])
    grid = "".join(_y_tick(y_of(tick), f"{tick:g}") for tick in y_ticks)
    grid += "".join(_x_tick(x_of(tick), f"{tick:,.0f}") for tick in _linear_ticks(steps[0], steps[-1]))
    label = f"Training loss from {losses[0]:.2f} at step {steps[0]:.0f} to {losses[-1]:.2f} at step {steps[-1]:.0f}"
    return (
        f'<svg class="curve" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{grid}'
        f'<path class="raw" d="{raw}"/><path class="smooth" d="{smooth}"/>'
        f'<text class="axis" x="{(WIDTH + LEFT - RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">step</text></svg>'
    )


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _y_tick(y: float, text: str) -> str:
    return (
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="axis" x="{LEFT - 8}" y="{y:.1f}" dominant-baseline="central" text-anchor="end">{text}</text>'
    )


def _x_tick(x: float, text: str) -> str:
    return f'<text class="axis" x="{x:.1f}" y="{HEIGHT - BOTTOM + 24}" text-anchor="middle">{text}</text>'


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


def _linear_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round steps inside the range."""
    raw = (high - low) / about
    scale = 10.0 ** math.floor(math.log10(raw))
    step = next(m * scale for m in (1, 2, 5, 10) if m * scale >= raw)
    first = math.ceil(low / step)
    return [i * step for i in range(first, math.floor(high / step) + 1)]
