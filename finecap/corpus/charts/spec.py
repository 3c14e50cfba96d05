"""What a chart shows, before anything is drawn: type, words, numbers and colours."""

from __future__ import annotations

import random
from dataclasses import dataclass

from finecap.corpus.charts.tables import TABLE_SPLITS, Table, load_table
from finecap.corpus.levels import ChartLevel
from finecap.corpus.seeding import split_of

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
    """
    Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec Mon Tue Wed Thu Fri Sat Sun USA UK EU IBM UPS A B C D E F
    """.split()  # noqa: SIM905
)
GENERATED = "values: generated here"


@dataclass(frozen=True)
class ChartSpec:
    """`series`: name to one value per row, None-named series have the empty name; `colors`: one colour word per
    series, or one per row where there is a single series of bars or wedges; `value_labels`: whether each value is
    written beside its bar.
    """

    type: str
    title: str
    row_name: str
    value_name: str
    rows: tuple[str, ...]
    series: dict[str, tuple[float, ...]]
    colors: tuple[str, ...]
    value_labels: bool
    license: str
    key: str

    @property
    def color_by_row(self) -> bool:
        """Whether each row has a colour of its own."""
        return len(self.series) == 1 and self.type in ("bar", "hbar", "pie")

    @property
    def kind(self) -> str:
        """What one calls such a chart."""
        kinds = {
            "bar": "bar chart",
            "hbar": "bar chart with lying bars",
            "grouped": "grouped bar chart",
            "line": "line chart",
        }
        return kinds.get(self.type, f"{self.type} chart")

    def color_of(self, series: int, row: int) -> str:
        """The colour word of one value."""
        return self.colors[row if self.color_by_row else series]


def number(value: float) -> str:
    """A number as it is drawn and as it is answered."""
    return f"{value:.10g}"


def choose_spec(rng: random.Random, level: ChartLevel, split: str) -> ChartSpec:
    """A chart that the split owns: from a table of the split, or with evenly drawn label-value pairs of the split."""
    if rng.random() < level.real_values:
        while True:
            spec = from_table(rng, level, load_table(rng.choice(TABLE_SPLITS[split])))
            if spec is not None:
                return spec
    return from_pairs(rng, level, split)


def owned_pairs(rng: random.Random, count: int, split: str) -> tuple[list[str], list[int]]:
    """Labels and whole numbers at least 6 apart whose pairs the split owns.

    A label may own few values, all too near to one that is there already; then everything is drawn anew.
    """
    limit = 99 if count <= 4 else 299
    while True:
        labels: list[str] = rng.sample(LABELS, count)
        values: list[int] = []
        for label in labels:
            apart = [value for value in range(5, limit + 1) if all(abs(value - other) >= 6 for other in values)]
            options = [value for value in apart if split_of("chart-pair", f"{label}={value}") == split]
            if not options:
                break
            values.append(rng.choice(options))
        else:
            return labels, values


def from_pairs(rng: random.Random, level: ChartLevel, split: str) -> ChartSpec:
    """One series of whole numbers from 5 to 99 (299 for many bars), drawn evenly and at least 6 apart."""
    count = rng.randint(*level.categories)
    labels, values = owned_pairs(rng, count, split)
    types = [name for name in level.types if name in ("bar", "hbar")]
    return ChartSpec(
        type=rng.choice(types),
        title=rng.choice(("Sales", "Visits", "Points", "Orders")),
        row_name="label",
        value_name="Count",
        rows=tuple(labels),
        series={"": tuple(float(value) for value in values)},
        colors=tuple(rng.sample(sorted(COLORS), count))
        if count <= len(COLORS)
        else (rng.choice(sorted(COLORS)),) * count,
        value_labels=rng.random() < level.value_labels,
        license=GENERATED,
        key="pairs:" + "+".join(f"{label}={value}" for label, value in zip(labels, values, strict=True)),
    )


def from_table(rng: random.Random, level: ChartLevel, table: Table) -> ChartSpec | None:
    """Some rows and columns of a table as a chart of a type that suits them; None if the draw does not suit the
    table.
    """
    kind = rng.choice(level.types)
    columns = choose_columns(rng, level, table, kind)
    count = min(rng.randint(*level.categories), len(table.rows))
    if kind in ("line", "scatter"):
        count = min(max(2 * count, 6), len(table.rows))
    if columns is None or count < (5 if kind == "scatter" else 2) or (kind == "line" and not table.ordered):
        return None
    picked = choose_rows(rng, table, count)
    series = {name: tuple(table.columns[name][row] for row in picked) for name in columns}
    if kind == "pie" and not is_pie(table, next(iter(series.values()))):
        return None
    single = len(series) == 1
    by_row = single and kind in ("bar", "hbar", "pie")
    several = by_row and count <= len(COLORS) and (kind == "pie" or rng.random() < 0.5)
    colors = rng.sample(sorted(COLORS), count if several else len(series))
    return ChartSpec(
        type=kind,
        title=f"{table.title}: {columns[0]}" if single else table.title,
        row_name=table.row_name.lower(),
        value_name=table.value_name,
        rows=tuple(table.rows[row] for row in picked),
        series=series,
        colors=tuple(colors if several or not by_row else colors * count),
        value_labels=kind == "pie" or rng.random() < level.value_labels,
        license=table.license,
        key=f"table:{table.name}:{'+'.join(columns)}:{table.rows[picked[0]]}-{table.rows[picked[-1]]}",
    )


def choose_columns(rng: random.Random, level: ChartLevel, table: Table, kind: str) -> list[str] | None:
    """As many columns as the chart type wants; None if the table has too few."""
    names = list(table.columns)
    wanted = {"bar": 1, "hbar": 1, "pie": 1, "scatter": 2}.get(kind, rng.randint(*level.series))
    if kind == "grouped":
        wanted = max(wanted, 2)
    if wanted > len(names) or (kind == "grouped" and level.series[1] < 2):
        return None
    chosen = set(rng.sample(names, wanted))
    return [name for name in names if name in chosen]


def choose_rows(rng: random.Random, table: Table, count: int) -> list[int]:
    """Row numbers in table order: neighbours with a common step where rows follow each other in time, else any."""
    if not table.ordered:
        return sorted(rng.sample(range(len(table.rows)), count))
    step = rng.randint(1, max(1, min(5, len(table.rows) // count)))
    start = rng.randint(0, len(table.rows) - 1 - (count - 1) * step)
    return list(range(start, start + count * step, step))


def is_pie(table: Table, values: tuple[float, ...]) -> bool:
    """Whether values may be drawn as parts of a whole, each wide enough to be seen."""
    total = sum(values)
    return table.whole and len(values) <= len(COLORS) and total > 0 and min(values) >= 0.03 * total
