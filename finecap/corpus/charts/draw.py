"""Drawing charts with matplotlib and measuring, in pixels, what was drawn.

Boxes of bars, wedges, lines and points come from a second drawing in which every such part has a flat colour of its
own: what is seen of a part is exactly the pixels of its colour. Boxes of words come from a third drawing that holds
nothing but the words. Window extents serve only to know where to look for a word, since they include empty margins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text
from PIL import Image

from finecap.corpus.charts.spec import COLORS, ChartSpec, number
from finecap.corpus.drawing.raster import Box
from finecap.corpus.scenes.placing import mask_box

DPI = 72  # one point is one pixel
LABEL_GAP = 8  # from axis labels to tick labels, so that a search for the ink of one does not meet the other
OVERHANG = 2  # pixels by which a J or an italic f may reach beyond its window extent


@dataclass(frozen=True)
class Part:
    """One measured part of a chart: `role` is bar, wedge, line, point, legend_key, or for words title, axis_label,
    tick, legend, value.
    """

    role: str
    box: Box
    text: str | None = None
    row: int | None = None
    series: int | None = None


@dataclass(frozen=True)
class Drawn:
    """An artist with what it stands for, before it is measured."""

    artist: Artist
    role: str
    row: int | None = None
    series: int | None = None


@dataclass(frozen=True)
class DrawnWord(Drawn):
    """A drawn text."""

    artist: Text


def rgb(name: str) -> tuple[float, float, float]:
    """A colour word as matplotlib wants it."""
    red, green, blue = COLORS[name]
    return red / 255, green / 255, blue / 255


def render(canvas: FigureCanvasAgg) -> np.ndarray:
    """Draw the canvas; (height, width, 3) uint8."""
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def text_box(artist: Artist, canvas: FigureCanvasAgg, pixels: np.ndarray) -> Box | None:
    """Tight box of the dark pixels in and just around a text's window extent; None if there are none."""
    height, width = pixels.shape[:2]
    extent = artist.get_window_extent(canvas.get_renderer())
    x1, x2 = max(int(extent.x0) - OVERHANG, 0), min(int(np.ceil(extent.x1)) + OVERHANG, width)
    y1, y2 = max(int(height - extent.y1) - OVERHANG, 0), min(int(np.ceil(height - extent.y0)) + OVERHANG, height)
    ink = pixels[y1:y2, x1:x2].min(axis=2) < 250
    if not ink.any():
        return None
    box = mask_box(ink)
    return box[0] + x1, box[1] + y1, box[2] + x1, box[3] + y1


def draw_chart(
    spec: ChartSpec, size: tuple[int, int], font_size: int, grid: bool
) -> tuple[Image.Image, list[Part]] | None:
    """A chart with title, axes, ticks and legend: the picture and its measured parts, or None if words would overlap
    or not fit.
    """
    figure = Figure(figsize=(size[0] / DPI, size[1] / DPI), dpi=DPI)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    drawers = {"bar": draw_bars, "hbar": draw_bars, "grouped": draw_bars, "line": draw_lines, "pie": draw_pie}
    drawn = drawers.get(spec.type, draw_points)(axes, spec, font_size)
    label_axes(axes, spec, font_size, grid)
    drawn += add_legend(axes, spec, font_size)
    figure.tight_layout(pad=0.6)
    pixels = render(canvas)
    words = collect_words(axes, spec, drawn)
    if not words_fit([word.artist for word in words], canvas, size):
        return None
    parts = measure_parts(figure, canvas, [item for item in drawn if not isinstance(item, DrawnWord)])
    return Image.fromarray(pixels), parts + measure_words(figure, canvas, words)


def draw_bars(axes: Axes, spec: ChartSpec, font_size: int) -> list[Drawn]:
    """Upright, lying or grouped bars, with their values where the chart asks for them."""
    drawn: list[Drawn] = []
    width = 0.8 / len(spec.series)
    lying = spec.type == "hbar"
    for number_of_series, values in enumerate(spec.series.values()):
        offset = (number_of_series - (len(spec.series) - 1) / 2) * width
        places = [row + offset for row in range(len(values))]
        colors = [rgb(spec.color_of(number_of_series, row)) for row in range(len(values))]
        bars = (axes.barh if lying else axes.bar)(places, values, width, color=colors, antialiased=False)
        drawn += [Drawn(bar, "bar", row, number_of_series) for row, bar in enumerate(bars)]
        if spec.value_labels:
            labels = axes.bar_label(bars, [number(value) for value in values], padding=2, fontsize=font_size - 1)
            drawn += [DrawnWord(label, "value", row, number_of_series) for row, label in enumerate(labels)]
    (axes.set_yticks if lying else axes.set_xticks)(range(len(spec.rows)), spec.rows)
    if lying:
        axes.invert_yaxis()
    axes.margins(x=0.12) if lying else axes.margins(y=0.12)
    return drawn


def draw_lines(axes: Axes, spec: ChartSpec, font_size: int) -> list[Drawn]:
    """One line with round marks for each series."""
    drawn: list[Drawn] = []
    for index, values in enumerate(spec.series.values()):
        (line,) = axes.plot(
            range(len(values)), values, color=rgb(spec.colors[index]), linewidth=max(font_size / 7, 1.2)
        )
        drawn.append(Drawn(line, "line", None, index))
        for row, value in enumerate(values):
            (mark,) = axes.plot([row], [value], "o", color=rgb(spec.colors[index]), markersize=font_size / 2)
            drawn.append(Drawn(mark, "point", row, index))
    axes.set_xticks(range(len(spec.rows)), spec.rows)
    return drawn


def draw_points(axes: Axes, spec: ChartSpec, font_size: int) -> list[Drawn]:
    """One mark for each row: the first series across, the second up."""
    across, up = spec.series.values()
    drawn: list[Drawn] = []
    for row, (x, y) in enumerate(zip(across, up, strict=True)):
        (mark,) = axes.plot([x], [y], "o", color=rgb(spec.colors[0]), markersize=0.6 * font_size)
        drawn.append(Drawn(mark, "point", row, 0))
    return drawn


def draw_pie(axes: Axes, spec: ChartSpec, font_size: int) -> list[Drawn]:
    """Wedges with their share in percent; names are in the legend."""
    values = next(iter(spec.series.values()))
    colors = [rgb(name) for name in spec.colors]
    wedges, _, shares = axes.pie(
        values, colors=colors, autopct="%.0f%%", pctdistance=1.18, startangle=90, counterclock=False, radius=0.9
    )
    for share in shares:
        share.set_fontsize(font_size)
    return [Drawn(wedge, "wedge", row, 0) for row, wedge in enumerate(wedges)] + [
        DrawnWord(share, "value", row, 0) for row, share in enumerate(shares)
    ]


def label_axes(axes: Axes, spec: ChartSpec, font_size: int, grid: bool) -> None:
    """Title, axis labels, tick sizes and an optional grid; long row labels stand upright."""
    axes.set_title(spec.title, fontsize=font_size + 2)
    if spec.type == "pie":
        return
    if spec.type == "scatter":
        names = list(spec.series)
        axes.set_xlabel(names[0], fontsize=font_size, labelpad=LABEL_GAP)
        axes.set_ylabel(names[1], fontsize=font_size, labelpad=LABEL_GAP)
    elif spec.type == "hbar":
        axes.set_xlabel(spec.value_name, fontsize=font_size, labelpad=LABEL_GAP)
    else:
        axes.set_ylabel(spec.value_name, fontsize=font_size, labelpad=LABEL_GAP)
        crowded = sum(len(row) + 1 for row in spec.rows) * 0.62 * font_size > 0.75 * axes.get_window_extent().width
        axes.tick_params(axis="x", labelrotation=90 if crowded else 0)
    axes.tick_params(labelsize=font_size)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    if grid:
        axes.grid(axis="x" if spec.type == "hbar" else "y", color="0.85", linewidth=1)


def add_legend(axes: Axes, spec: ChartSpec, font_size: int) -> list[Drawn]:
    """A legend beside the plot where colours carry names: several series, or the wedges of a pie."""
    if spec.type == "scatter" or (len(spec.series) == 1 and spec.type != "pie"):
        return []
    names = spec.rows if spec.type == "pie" else tuple(spec.series)
    handles = [Patch(color=rgb(color)) for color in spec.colors[: len(names)]]
    legend = axes.legend(
        handles,
        names,
        fontsize=font_size,
        loc="upper left",
        bbox_to_anchor=(1.02, 1.0),
        borderaxespad=0,
        frameon=False,
    )
    row_wise = spec.type == "pie"
    drawn = []
    for index, (key, text) in enumerate(zip(legend.get_patches(), legend.get_texts(), strict=True)):
        where = {"row": index} if row_wise else {"series": index}
        drawn += [Drawn(key, "legend_key", **where), DrawnWord(text, "legend", **where)]
    return drawn


def collect_words(axes: Axes, spec: ChartSpec, drawn: list[Drawn]) -> list[DrawnWord]:
    """Every text that is drawn. Ticks outside the view are kept by matplotlib but not drawn, so they are left out."""
    words = [DrawnWord(axes.title, "title"), *(item for item in drawn if isinstance(item, DrawnWord))]
    if spec.type == "pie":
        return words
    words += [DrawnWord(axis.label, "axis_label") for axis in (axes.xaxis, axes.yaxis)]
    for axis in (axes.xaxis, axes.yaxis):
        low, high = sorted(axis.get_view_interval())
        by_row = spec.type != "scatter" and axis is (axes.yaxis if spec.type == "hbar" else axes.xaxis)
        for place, label in zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True):
            if low <= place <= high:
                words.append(DrawnWord(label, "tick", row=round(place) if by_row else None))
    return [word for word in words if word.artist.get_text().strip()]


def words_fit(words: list[Artist], canvas: FigureCanvasAgg, size: tuple[int, int]) -> bool:
    """Whether all texts lie inside the picture and none comes near another."""
    extents = [word.get_window_extent(canvas.get_renderer()) for word in words]
    inside = all(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= size[0] and box.y1 <= size[1] for box in extents)
    padded = [box.padded(OVERHANG) for box in extents]
    apart = all(not one.overlaps(other) for k, one in enumerate(padded) for other in padded[k + 1 :])
    return inside and apart


def measure_parts(figure: Figure, canvas: FigureCanvasAgg, drawn: list[Drawn]) -> list[Part]:
    """Draw every part in a flat colour of its own and read the boxes off; a part that is wholly hidden or has no area
    is left out.
    """
    shown = {id(item.artist) for item in drawn}
    hidden = [
        artist
        for artist in figure.findobj(lambda artist: is_leaf(artist) and id(artist) not in shown)
        if artist.get_visible()
    ]
    for artist in hidden:
        artist.set_visible(False)
    for code, item in enumerate(drawn, 1):
        paint_flat(item.artist, code)
    codes = render(canvas).astype(np.int32) @ np.array([65536, 256, 1])
    for artist in hidden:
        artist.set_visible(True)
    parts = []
    for code, item in enumerate(drawn, 1):
        mask = codes == code_color(code)
        if mask.any():
            parts.append(Part(item.role, mask_box(mask), None, item.row, item.series))
    return parts


def is_leaf(artist: Artist) -> bool:
    """Whether an artist draws pixels itself rather than by its children."""
    return isinstance(artist, Text | Line2D | Patch)


def code_color(code: int) -> int:
    """24-bit colour of a part. Neighbouring codes lie far apart in all channels: matplotlib smooths the rims of marks
    whatever it is told, and a mixture of two parts' colours must not be a third one's.
    """
    return code * 0x9E3779 & 0xFFFFFF


def paint_flat(artist: Artist, code: int) -> None:
    """Give an artist the colour that stands for `code`, without smoothing, so that each of its pixels carries it
    unmixed.
    """
    value = code_color(code)
    color = ((value >> 16 & 255) / 255, (value >> 8 & 255) / 255, (value & 255) / 255)
    if isinstance(artist, Line2D):
        artist.set(color=color, markeredgewidth=0, antialiased=False)
    elif isinstance(artist, Patch):
        artist.set(facecolor=color, edgecolor="none", antialiased=False)


def measure_words(figure: Figure, canvas: FigureCanvasAgg, words: list[DrawnWord]) -> list[Part]:
    """Draw the words alone, in black, and take the box of the ink of each."""
    shown = {id(word.artist) for word in words}
    for artist in figure.findobj(
        lambda artist: is_leaf(artist) and id(artist) not in shown and artist is not figure.patch
    ):
        artist.set_visible(False)
    for word in words:
        word.artist.set_color("black")
    pixels = render(canvas)
    parts = []
    for word in words:
        box = text_box(word.artist, canvas, pixels)
        if box is not None:
            parts.append(Part(word.role, box, word.artist.get_text().strip(), word.row, word.series))
    return parts
