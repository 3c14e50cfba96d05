"""Axes and lines of charts as SVG that takes its colours from the page."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Point = tuple[float, float]


@dataclass(frozen=True)
class Axes:
    """A frame of `width` x `height` pixels; its margins hold what stands at the ticks."""

    width: int
    height: int
    left: int = 56
    right: int = 20
    top: int = 16
    bottom: int = 56

    def across(self, low: float, high: float) -> Callable[[float], float]:
        """Places values from left to right."""
        span = self.width - self.left - self.right
        return lambda value: self.left + (value - low) / (high - low) * span

    def upwards(self, low: float, high: float) -> Callable[[float], float]:
        """Places values from the bottom up (SVG's y grows downwards)."""
        span = self.height - self.top - self.bottom
        return lambda value: self.top + (high - value) / (high - low) * span

    def tick_left(self, y: float, text: str) -> str:
        """A line across the frame, and the value that it stands for."""
        return (
            f'<line class="grid" x1="{self.left}" x2="{self.width - self.right}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="axis" x="{self.left - 8}" y="{y:.1f}" dominant-baseline="central" text-anchor="end">'
            f"{text}</text>"
        )

    def tick_below(self, x: float, text: str) -> str:
        """A value below the frame."""
        place = f'x="{x:.1f}" y="{self.height - self.bottom + 24}"'
        return f'<text class="axis" {place} text-anchor="middle">{text}</text>'

    def name_below(self, text: str) -> str:
        """What is counted from left to right."""
        middle = (self.width + self.left - self.right) / 2
        return f'<text class="axis" x="{middle}" y="{self.height - 6}" text-anchor="middle">{text}</text>'


def path(points: Sequence[Point]) -> str:
    """The `d` of a line through points."""
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def linear_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round steps inside the range."""
    raw = (high - low) / about
    scale = 10.0 ** math.floor(math.log10(raw))
    step = next(m * scale for m in (1, 2, 5, 10) if m * scale >= raw)
    first = math.ceil(low / step)
    return [i * step for i in range(first, math.floor(high / step) + 1)]


def short_number(value: float) -> str:
    """12,000,000 as 12M."""
    for size, mark in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{mark}"
    return f"{value:g}"
