"""Charts in ChartQA's schema, drawn with matplotlib, with exact boxes for what is drawn.

What is held out: the pair of a bar's label and its value is owned by one split, and all bars of a chart belong to the chart's split.
"""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from finecap.corpus.levels import ChartLevel, level_of
from finecap.corpus.raster import Box, encode_png
from finecap.corpus.seeding import rng_for, split_of
from finecap.records import QA, Record, Region, region

SOURCE = "finevit-charts"
LICENSE = "values: generated here; fonts: DejaVu (Bitstream Vera licence)"
DPI = 72  # one point is one pixel

COLORS = {
    "red": (214, 39, 40),
    "blue": (31, 99, 200),
    "green": (44, 150, 44),
    "orange": (255, 140, 0),
    "purple": (130, 60, 180),
    "brown": (120, 70, 30),
    "pink": (250, 130, 190),
    "gray": (127, 127, 127),
}
LABELS = tuple(
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun", "USA", "UK", "EU", "IBM", "UPS", "A", "B", "C", "D", "E", "F"]
)


@dataclass(frozen=True)
class Bar:
    """One bar of a chart."""

    label: str
    value: int
    color: str


def generate(index: int, seed: int, split: str, difficulty: str) -> Record:
    """Chart number `index` of a split: a pure function of its arguments."""
    rng = rng_for("chart", index, seed, split, difficulty)
    level = level_of(difficulty).chart
    size = rng.choice(level.sizes)
    bars = choose_bars(rng, rng.randint(*level.categories), split)
    image, regions = draw_bars(level, size, bars)
    key = "+".join(f"{bar.label}={bar.value}" for bar in bars)
    return {
        "id": f"{SOURCE}/{difficulty}-{seed}-{split}-{index:07d}/{key}",
        "image": {"bytes": encode_png(image), "path": None},
        "width": image.width,
        "height": image.height,
        "source": SOURCE,
        "license": LICENSE,
        "split": split,
        "global_caption": "A bar chart: " + ", ".join(f"{bar.label} {bar.value} ({bar.color})" for bar in bars) + ".",
        "captioner": SOURCE,
        "regions": regions,
        "qa": questions(rng, level, bars),
    }


def choose_bars(rng: random.Random, count: int, split: str) -> list[Bar]:
    """Bars with different labels, colours and heights whose (label, value) pairs the split owns."""
    labels = rng.sample(LABELS, count)
    colors = rng.sample(sorted(COLORS), count)
    bars: list[Bar] = []
    while len(bars) < count:
        label, value = labels[len(bars)], rng.randint(5, 99)
        clear = all(abs(value - bar.value) >= 6 for bar in bars)
        if clear and split_of("chart-pair", f"{label}={value}") == split:
            bars.append(Bar(label, value, colors[len(bars)]))
    return bars


@functools.cache
def _bare_axes(size: tuple[int, int]) -> tuple[Figure, Axes]:
    """Making a figure costs more than drawing a small one, so one is kept for each size; whoever draws removes what was added."""
    figure = Figure(figsize=(size[0] / DPI, size[1] / DPI), dpi=DPI)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    axes.set_xlim(0, size[0])
    axes.set_ylim(0, size[1])
    return figure, axes


def draw_bars(level: ChartLevel, size: tuple[int, int], bars: list[Bar]) -> tuple[Image.Image, list[Region]]:
    """Bars with the value above and the label below; axes are in pixels with y upwards."""
    figure, axes = _bare_axes(size)
    floor, top, slot = level.font_size + 4, size[1] - level.font_size - 4, size[0] // len(bars)
    unit = (top - floor) / max(bar.value for bar in bars)
    drawn = []
    for number, bar in enumerate(bars):
        left, width = number * slot + slot // 6, slot - 2 * (slot // 6)
        height = max(round(bar.value * unit), 2)
        center = left + width / 2
        color = tuple(channel / 255 for channel in COLORS[bar.color])
        patch = axes.add_patch(
            Rectangle((left, floor), width, height, facecolor=color, edgecolor="none", antialiased=False)
        )
        value = axes.text(
            center, floor + height + 2, str(bar.value), ha="center", va="bottom", fontsize=level.font_size
        )
        label = axes.text(center, floor - 3, bar.label, ha="center", va="top", fontsize=level.font_size)
        drawn.append((bar, patch, value, label))
    pixels = np.asarray(figure.canvas.buffer_rgba()) if figure.canvas.draw() is None else None
    image = Image.fromarray(pixels[..., :3].copy())
    renderer = figure.canvas.get_renderer()
    regions = []
    for bar, patch, value, label in drawn:
        regions.append(
            region(
                pixel_box(patch.get_window_extent(renderer), size),
                "chart",
                "bar",
                caption=f"the {bar.color} bar for {bar.label}, {bar.value}",
            )
        )
        regions.append(
            region(pixel_box(value.get_window_extent(renderer), size), "text", "value", text=str(bar.value))
        )
        regions.append(region(pixel_box(label.get_window_extent(renderer), size), "text", "tick", text=bar.label))
        for artist in (patch, value, label):
            artist.remove()
    return image, regions


def pixel_box(extent: object, size: tuple[int, int]) -> Box:
    """A window extent (y upwards) as a pixel box (y downwards), cut to the picture."""
    return (
        max(int(np.floor(extent.x0)), 0),
        max(int(np.floor(size[1] - extent.y1)), 0),
        min(int(np.ceil(extent.x1)), size[0]),
        min(int(np.ceil(size[1] - extent.y0)), size[1]),
    )


def questions(rng: random.Random, level: ChartLevel, bars: list[Bar]) -> list[QA]:
    """Values by label and by colour, the extreme label, and a bar's colour."""
    by_label, by_color = rng.sample(bars, 2)
    highest = rng.random() < 0.5
    extreme = (max if highest else min)(bars, key=lambda bar: bar.value)
    pairs = [
        (f"What is the value of {by_label.label}?", str(by_label.value)),
        (f"What is the value of the {by_color.color} bar?", str(by_color.value)),
        (f"Which bar is the {'highest' if highest else 'lowest'}?", extreme.label),
    ]
    if rng.random() < 0.5:
        asked = rng.choice(bars)
        pairs.append((f"What color is the bar of {asked.label}?", asked.color))
    rng.shuffle(pairs)
    return [{"question": text, "answers": [answer], "kind": "chart"} for text, answer in pairs[: level.questions]]
