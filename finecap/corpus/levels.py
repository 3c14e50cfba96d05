"""The difficulty dial: the same code draws every level, and a level is nothing but the numbers in these dataclasses.

nano: a model of one to two million parameters learns it from scratch on two cores; full: a model of two billion parameters does not
saturate it. Sides of nano pictures are multiples of 28, one language-model token of a patch-14 encoder with a 2x2 merge.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DocLevel:
    """Documents. `sizes`: width and height in pixels; `templates`: what is drawn; `questions`: how many a record gets.

    `cell`: width in pixels of a typewriter's character cell, twice as high, on which forms are written; 0 for free layout. A tiny
    model finds reading within ten thousand pages when glyphs lie on the encoder's patches, and not within twenty thousand when not.
    """

    sizes: tuple[tuple[int, int], ...]
    templates: tuple[str, ...]
    font_sizes: tuple[int, int]
    faces: tuple[str, ...]
    lines: tuple[int, int]
    cell: int
    questions: int


@dataclass(frozen=True)
class ChartLevel:
    """Charts. `categories`: rows of a chart (lines and scatter charts show twice as many); `series`: columns; `real_values`: share of charts
    whose values come from a real table, the rest draws values evenly, so that a blind guess is worth nothing; `value_labels`: chance that
    values are written beside bars; `cell`: width of a character cell of bars without axes, 0 for whole charts; `degradation`: 0 none to 1
    strong."""

    sizes: tuple[tuple[int, int], ...]
    types: tuple[str, ...]
    categories: tuple[int, int]
    series: tuple[int, int]
    font_sizes: tuple[int, int]
    real_values: float
    cell: int
    value_labels: float
    degradation: float
    questions: int


@dataclass(frozen=True)
class SceneLevel:
    """Scenes. `object_sides`: longest side of an object in pixels; `vocabulary`: which list of drawings; `repeats`: chance that an object
    repeats the one before; `overlap`: largest shared part of two boxes; `visible`: least visible fraction of an object; `flips`: share of
    mirrored objects; `fade`: range of the background's fading towards a flat tone; `degradation`: 0 none to 1 strong;
    `hold_out_drawings`: whether drawings are split too; `questions`: grounding questions, `extra_questions`: others."""

    sizes: tuple[tuple[int, int], ...]
    objects: tuple[int, int]
    object_sides: tuple[int, int]
    vocabulary: str
    repeats: float
    overlap: float
    visible: float
    flips: float
    fade: tuple[float, float]
    degradation: float
    hold_out_drawings: bool
    questions: int
    extra_questions: int


@dataclass(frozen=True)
class Level:
    """One step of the dial."""

    doc: DocLevel
    chart: ChartLevel
    scene: SceneLevel
    rows_per_shard: int


LEVELS = {
    "nano": Level(
        doc=DocLevel(
            sizes=((168, 84), (168, 84), (168, 56)),
            templates=("fields",),
            font_sizes=(23, 23),
            faces=("mono-bold",),
            lines=(2, 3),
            cell=14,
            questions=3,
        ),
        chart=ChartLevel(
            sizes=((168, 112),),
            types=("bar",),
            categories=(2, 3),
            series=(1, 1),
            font_sizes=(23, 23),
            real_values=0.0,
            cell=14,
            value_labels=1.0,
            degradation=0.0,
            questions=4,
        ),
        scene=SceneLevel(
            sizes=((112, 112),),
            objects=(1, 3),
            object_sides=(36, 60),
            vocabulary="nano",
            repeats=0.25,
            overlap=0.0,
            visible=1.0,
            flips=0.0,
            fade=(0.5, 0.7),
            degradation=0.0,
            hold_out_drawings=False,
            questions=3,
            extra_questions=0,
        ),
        rows_per_shard=500,
    ),
}
DIFFICULTIES = tuple(LEVELS)


def level_of(difficulty: str) -> Level:
    """The numbers of a level.

    Raises:
        ValueError: for a name that is not on the dial.
    """
    if difficulty not in LEVELS:
        raise ValueError(f"difficulty is {difficulty!r}, expected one of {', '.join(LEVELS)}")
    return LEVELS[difficulty]
