"""Charts in ChartQA's schema (drawn with matplotlib from level small on), with exact boxes for bars, wedges, lines,
points, ticks, legends and titles.

Charts from real tables are held out by table (`finecap.corpus.charts.tables.TABLE_SPLITS`). Charts with evenly drawn
values are held out by the pair of a bar's label and its value: no such pair of a test chart is ever drawn in train.
"""

from __future__ import annotations

import random

from PIL import Image

from finecap.corpus.caption_pair import captions
from finecap.corpus.charts.bare import draw_bare_bars
from finecap.corpus.charts.draw import Part, draw_chart
from finecap.corpus.charts.facts import facts
from finecap.corpus.charts.questions import questions
from finecap.corpus.charts.spec import ChartSpec, choose_spec, number
from finecap.corpus.drawing import degrade
from finecap.corpus.drawing.raster import encode_picture
from finecap.corpus.levels import ChartLevel, level_of
from finecap.corpus.seeding import rng_for
from finecap.records import Record, Region, new_record, region

SOURCE = "finevit-charts"
FONT_LICENSE = "fonts: DejaVu (Bitstream Vera licence)"
WORD_ROLES = ("title", "axis_label", "tick", "legend", "value")


def generate(index: int, seed: int, split: str, difficulty: str) -> Record:
    """Chart number `index` of a split: a pure function of its arguments."""
    rng = rng_for("chart", index, seed, split, difficulty)
    level = level_of(difficulty).chart
    spec, image, parts = draw_owned(rng, level, split)
    asked = questions(rng, spec, level.questions)
    image, quality = degrade.photograph(rng, image, level.degradation)
    words = rng_for("chart-captions", index, seed, split, difficulty)
    return new_record(
        f"{SOURCE}/{difficulty}-{seed}-{split}-{index:07d}/{spec.key}",
        encode_picture(image, quality),
        image.size,
        SOURCE,
        f"{spec.license}; {FONT_LICENSE}",
        split,
        [as_region(part, spec) for part in parts],
        asked,
        caption(spec),
        captions(words, facts(words, spec, bool(level.cell)), SOURCE, split, level_of(difficulty).caption_tokens),
    )


def draw_owned(rng: random.Random, level: ChartLevel, split: str) -> tuple[ChartSpec, Image.Image, list[Part]]:
    """A chart of the split that can be drawn without words running into each other and about which something can be
    asked.
    """
    while True:
        spec, size = choose_spec(rng, level, split), rng.choice(level.sizes)
        font_size = rng.randint(*level.font_sizes)
        if level.cell:
            drawn = draw_bare_bars(rng, spec, size, font_size, level.cell)
        else:
            drawn = draw_chart(spec, size, font_size, grid=rng.random() < 0.5)
        if drawn is not None and questions(random.Random(0), spec, 1):
            return spec, *drawn


def as_region(part: Part, spec: ChartSpec) -> Region:
    """A measured part as a region: words as text, the rest with a caption that says what it stands for."""
    if part.role in WORD_ROLES:
        return region(part.box, "text", part.role, text=part.text)
    return region(part.box, "chart", part.role, caption=part_caption(part, spec))


def part_caption(part: Part, spec: ChartSpec) -> str:
    """What a bar, wedge, line, point or legend key stands for."""
    names = list(spec.series)
    color = spec.color_of(part.series or 0, part.row or 0)
    if part.role == "legend_key":
        return f"the {color} key of {spec.rows[part.row] if part.row is not None else names[part.series or 0]}"
    if part.role == "line":
        return f"the {color} line{f' of {names[part.series or 0]}' if len(names) > 1 else ''}"
    row = part.row or 0
    if spec.type == "scatter":
        across, up = (values[row] for values in spec.series.values())
        return f"the point of {spec.rows[row]}, {number(across)} and {number(up)}"
    series = names[part.series or 0]
    whose = f"{series} in {spec.rows[row]}" if len(names) > 1 else spec.rows[row]
    return f"the {color} {part.role} for {whose}, {number(spec.series[series][row])}"


def caption(spec: ChartSpec) -> str:
    """The chart in a sentence: its kind, its title, and its numbers while they are few."""
    if len(spec.series) == 1 and len(spec.rows) <= 6:
        (values,) = spec.series.values()
        listed = ", ".join(f"{row} {number(value)}" for row, value in zip(spec.rows, values, strict=True))
        return f"A {spec.kind}: {listed}."
    series = " and ".join(spec.series) if any(spec.series) else spec.value_name
    return f"A {spec.kind} titled {spec.title}, showing {series} of {spec.rows[0]} to {spec.rows[-1]}."
