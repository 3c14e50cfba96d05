"""What is true of a chart, in sentences: how its kind is drawn, and which numbers it shows."""

from __future__ import annotations

import random
from collections.abc import Iterator

from finecap.corpus.caption_pair import Facts, listed
from finecap.corpus.charts.questions import CLEAR
from finecap.corpus.charts.spec import ChartSpec, number

SHORT_VALUES = 3  # values that a short caption names

_SHEET = "The picture shows a single chart on a light background, with its title centered above the plot."
_LEGEND = "A legend to the right of the plot tells what each color stands for."
BARE = ("A chart of upright bars without axes.", "Each bar has its value above it and its label below it.")
COMMON = {
    "bar": (
        _SHEET,
        "It has upright bars of one width that all start from zero, side by side with gaps between them, each with "
        "its label at the bottom of the plot.",
        "The vertical axis at the left has tick marks with numbers, and what they count is written along it.",
        "The longer a bar is, the further its value lies from zero.",
    ),
    "hbar": (
        _SHEET,
        "It has lying bars of one width that all start from zero, one below the other with gaps between them, each "
        "with its label at the left of the plot.",
        "The horizontal axis at the bottom has tick marks with numbers, and what they count is written below it.",
        "The longer a bar is, the further its value lies from zero.",
    ),
    "grouped": (
        _SHEET,
        "It has groups of upright bars that all start from zero, each group with its label at the bottom of the plot, "
        "and the bars of a group stand side by side in different colors.",
        "The vertical axis at the left has tick marks with numbers, and what they count is written along it.",
        _LEGEND,
    ),
    "line": (
        _SHEET,
        "Round marks are joined by straight lines from the left to the right, and each mark stands above its label at "
        "the bottom of the plot.",
        "The vertical axis at the left has tick marks with numbers, and what they count is written along it.",
        "The higher a mark lies, the larger its value is.",
    ),
    "pie": (
        _SHEET,
        "It is a circle that is cut from its center into parts of different colors, like a cake.",
        "Beside each part stands its share of the whole in percent, rounded to a whole number; the parts follow each "
        "other clockwise, and the first one begins at the very top.",
        _LEGEND,
    ),
    "scatter": (
        _SHEET,
        "It has round marks of one color and one size, which no line joins, and no names are written beside them.",
        "Both axes have tick marks with numbers: the further right a mark lies, the larger its first value is, and "
        "the higher it lies, the larger its second value is.",
        "What each axis measures is written beside it.",
    ),
}


def facts(rng: random.Random, spec: ChartSpec, bare: bool) -> Facts:
    """Facts of a chart; of a `bare` one without title and axes (`finecap.corpus.charts.bare`)."""
    values = list(value_facts(spec))
    rng.shuffle(values)
    titles = [] if bare else list(title_facts(spec))
    named = [value for value, _ in values[:SHORT_VALUES]]
    own = [*titles, *(fact for _, fact in values), *extreme_facts(spec)]
    return Facts(f"A {spec.kind} where {listed(named)}.", BARE if bare else COMMON[spec.type], own)


def value_facts(spec: ChartSpec) -> Iterator[tuple[str, str]]:
    """Each value in a few words and in a sentence."""
    if spec.type == "scatter":
        for name, across, up in zip(spec.rows, *spec.series.values(), strict=True):
            brief = f"{name} is at {number(across)} and {number(up)}"
            yield brief, f"The mark of {name} lies at {number(across)} across and {number(up)} up."
        return
    for series, (name, values) in enumerate(spec.series.items()):
        for row, (label, value) in enumerate(zip(spec.rows, values, strict=True)):
            said = f"{100 * value / sum(values):.0f} percent" if spec.type == "pie" else number(value)
            if len(spec.series) > 1:
                yield f"{name} in {label} is {said}", f"For {label}, {name} is {said}."
            elif spec.color_by_row:
                part = "part" if spec.type == "pie" else "bar"
                yield f"{label} is {said}", f"The {part} of {label} is {spec.color_of(series, row)} and shows {said}."
            else:
                yield f"{label} is {said}", f"The mark of {label} shows {said}."


def title_facts(spec: ChartSpec) -> Iterator[str]:
    """What is written around the plot, and the colours of several series."""
    yield f'The title reads "{spec.title}".'
    if spec.type == "scatter":
        across, up = spec.series
        yield f'The axes are named "{across}" and "{up}".'
    elif spec.type != "pie":
        yield f'The axis of the values is named "{spec.value_name}".'
    if len(spec.series) > 1 and spec.type != "scatter":
        yield from (f"The color of {name} is {spec.color_of(index, 0)}." for index, name in enumerate(spec.series))


def extreme_facts(spec: ChartSpec) -> Iterator[str]:
    """Which row of a single series is plainly the highest and which the lowest."""
    if len(spec.series) > 1:
        return
    (values,) = spec.series.values()
    order = sorted(range(len(values)), key=lambda row: values[row])
    for word, best, next_best in (("largest", order[-1], order[-2]), ("smallest", order[0], order[1])):
        if abs(values[best] - values[next_best]) >= CLEAR * max(map(abs, values)):
            yield f"The {word} value is that of {spec.rows[best]}."
