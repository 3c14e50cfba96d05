"""The difficulty dial: the same code draws every level, and a level is nothing but the numbers in these dataclasses.

nano: a model of one to two million parameters learns it from scratch on two cores; full: a model of two billion
parameters does not saturate it. Sides of nano pictures are multiples of 28, one language-model token of a patch-14
encoder with a 2x2 merge.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DocLevel:
    """Documents. `sizes`: width and height in pixels; `templates`: see `doc_templates.TEMPLATES`; `lines`: fields of a
    typed form; `rotation`: largest turn in degrees; `degradation`: 0 none to 1 strong; `questions`: how many a record
    gets at most.

    `cell`: width in pixels of a typewriter's character cell, twice as high, on which forms are written; 0 for whole
    pages. A tiny model learns to read within ten thousand pages when glyphs lie on the encoder's patches, and not
    within twenty thousand when not.
    """

    sizes: tuple[tuple[int, int], ...]
    templates: tuple[str, ...]
    font_sizes: tuple[int, int]
    faces: tuple[str, ...]
    lines: tuple[int, int]
    cell: int
    rotation: float
    degradation: float
    questions: int


@dataclass(frozen=True)
class ChartLevel:
    """Charts. `categories`: rows of a chart (lines and scatter charts show twice as many); `series`: columns;
    `real_values`: share of charts whose values come from a real table, the rest draws values evenly, so that a blind
    guess is worth nothing; `value_labels`: chance that values are written beside bars; `cell`: width of a character
    cell of bars without axes, 0 for whole charts; `degradation`: 0 none to 1 strong.
    """

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
    """Scenes. `object_sides`: longest side of an object in pixels; `vocabulary`: which list of drawings; `repeats`:
    chance that an object repeats the one before; `overlap`: largest shared part of two boxes; `visible`: least visible
    fraction of an object; `flips`: share of mirrored objects; `fade`: range of the background's fading towards a flat
    tone; `degradation`: 0 none to 1 strong; `hold_out_drawings`: whether drawings are split too; `questions`:
    grounding questions, `extra_questions`: others.
    """

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
    """One step of the dial. `caption_tokens`: the most of a dense caption, see `finecap.corpus.caption_pair`."""

    doc: DocLevel
    chart: ChartLevel
    scene: SceneLevel
    caption_tokens: int
    rows_per_shard: int


LEVELS = {
    "nano": Level(
        doc=DocLevel(
            sizes=((168, 84), (168, 84), (168, 56)),
            templates=(),
            font_sizes=(23, 23),
            faces=("mono-bold",),
            lines=(2, 3),
            cell=14,
            rotation=0.0,
            degradation=0.0,
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
        caption_tokens=54,
        rows_per_shard=500,
    ),
    "small": Level(
        doc=DocLevel(
            sizes=((336, 252), (280, 336), (336, 336)),
            templates=("form", "form", "table"),
            font_sizes=(13, 16),
            faces=("sans", "serif", "mono"),
            lines=(1, 1),
            cell=0,
            rotation=0.0,
            degradation=0.0,
            questions=4,
        ),
        chart=ChartLevel(
            sizes=((336, 252), (336, 336)),
            types=("bar", "hbar"),
            categories=(2, 5),
            series=(1, 1),
            font_sizes=(12, 14),
            real_values=0.5,
            value_labels=0.7,
            cell=0,
            degradation=0.0,
            questions=4,
        ),
        scene=SceneLevel(
            sizes=((280, 224), (224, 280), (252, 252)),
            objects=(2, 5),
            object_sides=(40, 96),
            vocabulary="small",
            repeats=0.3,
            overlap=0.1,
            visible=0.7,
            flips=0.5,
            fade=(0.2, 0.5),
            degradation=0.0,
            hold_out_drawings=False,
            questions=4,
            extra_questions=2,
        ),
        caption_tokens=210,
        rows_per_shard=500,
    ),
    "base": Level(
        doc=DocLevel(
            sizes=((672, 896), (784, 1008), (896, 672)),
            templates=("form", "table", "invoice", "letter", "report"),
            font_sizes=(15, 20),
            faces=("sans", "serif", "mono"),
            lines=(1, 1),
            cell=0,
            rotation=1.0,
            degradation=0.4,
            questions=5,
        ),
        chart=ChartLevel(
            sizes=((560, 420), (504, 504), (672, 448)),
            types=("bar", "hbar", "grouped", "line", "pie", "scatter"),
            categories=(3, 8),
            series=(1, 3),
            font_sizes=(12, 15),
            real_values=0.9,
            value_labels=0.5,
            cell=0,
            degradation=0.3,
            questions=5,
        ),
        scene=SceneLevel(
            sizes=((560, 448), (448, 560), (504, 504)),
            objects=(4, 9),
            object_sides=(48, 160),
            vocabulary="base",
            repeats=0.35,
            overlap=0.35,
            visible=0.45,
            flips=0.5,
            fade=(0.0, 0.3),
            degradation=0.4,
            hold_out_drawings=True,
            questions=5,
            extra_questions=3,
        ),
        caption_tokens=210,
        rows_per_shard=200,
    ),
    "full": Level(
        doc=DocLevel(
            sizes=((1008, 1344), (1120, 1456), (1344, 1008)),
            templates=("form", "table", "invoice", "letter", "report"),
            font_sizes=(14, 22),
            faces=("sans", "serif", "mono"),
            lines=(1, 1),
            cell=0,
            rotation=2.5,
            degradation=1.0,
            questions=6,
        ),
        chart=ChartLevel(
            sizes=((896, 672), (840, 840), (1120, 700)),
            types=("bar", "hbar", "grouped", "line", "pie", "scatter"),
            categories=(4, 14),
            series=(1, 4),
            font_sizes=(12, 17),
            real_values=1.0,
            value_labels=0.35,
            cell=0,
            degradation=0.7,
            questions=6,
        ),
        scene=SceneLevel(
            sizes=((1008, 756), (756, 1008), (896, 896)),
            objects=(8, 20),
            object_sides=(40, 240),
            vocabulary="base",
            repeats=0.4,
            overlap=0.5,
            visible=0.3,
            flips=0.5,
            fade=(0.0, 0.15),
            degradation=0.8,
            hold_out_drawings=True,
            questions=6,
            extra_questions=4,
        ),
        caption_tokens=210,
        rows_per_shard=100,
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
