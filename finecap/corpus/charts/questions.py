"""Questions about a chart whose answers follow from its numbers, asked only where a careful reader can tell the
answer.
"""

from __future__ import annotations

import random

from finecap.corpus.charts.spec import ChartSpec, number
from finecap.records import QA

CLEAR = 0.05  # share of the drawn range by which two values must differ before one may be called higher
READABLE = 0.3  # least share of the axis at which an unlabelled value can be read to five percent


def questions(rng: random.Random, spec: ChartSpec, limit: int) -> list[QA]:
    """At most `limit` questions, each text once, in random order."""
    makers = {"pie": pie_questions, "scatter": scatter_questions}.get(spec.type, series_questions)
    pairs = dict(makers(rng, spec))
    chosen = rng.sample(sorted(pairs), min(limit, len(pairs)))
    return [{"question": text, "answers": [pairs[text]], "kind": "chart"} for text in chosen]


def of_series(spec: ChartSpec, name: str) -> str:
    """ " of city" for one series among several, nothing for the only one."""
    return f" of {name}" if len(spec.series) > 1 else ""


def series_questions(rng: random.Random, spec: ChartSpec) -> list[tuple[str, str]]:
    """Values, extremes, differences and colours of bars and lines."""
    found: list[tuple[str, str]] = []
    name = rng.choice(sorted(spec.series))
    values = spec.series[name]
    index = list(spec.series).index(name)
    legible = [row for row, value in enumerate(values) if spec.value_labels or value >= READABLE * max(values)]
    what = f"the {name} value" if len(spec.series) > 1 else "the value"
    for row in rng.sample(legible, min(2, len(legible))):
        found.append((f"What is {what} of {spec.rows[row]}?", number(values[row])))
    found += extreme_questions(rng, spec, name, values)
    if spec.color_by_row and len(set(spec.colors)) == len(spec.rows) and legible:
        row = rng.choice(legible)
        found.append((f"What is the value of the {spec.colors[row]} bar?", number(values[row])))
        if rng.random() < 0.5:
            asked = rng.randrange(len(spec.rows))
            found.append((f"What color is the bar of {spec.rows[asked]}?", spec.colors[asked]))
    elif len(spec.series) > 1:
        part = "line" if spec.type == "line" else "bar"
        found.append((f"What color is the {part} of {name}?", spec.colors[index]))
    if len(values) > 3 or len(spec.series) > 1:
        found += computed_questions(rng, spec, what, values, legible)
    return found


def extreme_questions(
    rng: random.Random, spec: ChartSpec, name: str, values: tuple[float, ...]
) -> list[tuple[str, str]]:
    """Which row is highest or lowest, if the runner-up is clearly behind."""
    highest = rng.random() < 0.5
    order = sorted(range(len(values)), key=lambda row: values[row], reverse=highest)
    if abs(values[order[0]] - values[order[1]]) < CLEAR * max(map(abs, values)):
        return []
    word = "highest" if highest else "lowest"
    part = "bar" if spec.type in ("bar", "hbar") else spec.row_name
    if part == "bar":
        return [(f"Which bar is the {word}?", spec.rows[order[0]])]
    return [(f"Which {part} has the {word} value{of_series(spec, name)}?", spec.rows[order[0]])]


def computed_questions(
    rng: random.Random, spec: ChartSpec, what: str, values: tuple[float, ...], legible: list[int]
) -> list[tuple[str, str]]:
    """Counts, and where values are written beside the bars, differences and sums."""
    found = [
        (
            f"How many {'lines' if spec.type == 'line' else 'bars'} are there?",
            str(len(spec.series) if spec.type == "line" else len(spec.series) * sum(1 for _ in spec.rows)),
        )
    ]
    if spec.type != "line" and any(value <= 0 for series in spec.series.values() for value in series):
        found = []
    if spec.value_labels and len(legible) >= 2:
        one, other = rng.sample(legible, 2)
        difference = round(abs(values[one] - values[other]), 6)
        found.append(
            (f"What is the difference between {what} of {spec.rows[one]} and {spec.rows[other]}?", number(difference))
        )
        total = round(values[one] + values[other], 6)
        found.append((f"What is the sum of {what} of {spec.rows[one]} and {spec.rows[other]}?", number(total)))
    return found


def pie_questions(rng: random.Random, spec: ChartSpec) -> list[tuple[str, str]]:
    """Shares, the extreme wedge, a wedge by colour."""
    (values,) = spec.series.values()
    total = sum(values)
    row, colored = rng.randrange(len(values)), rng.randrange(len(values))
    found = [
        (f"What percentage is {spec.rows[row]}?", f"{100 * values[row] / total:.0f}%"),
        (f"What does the {spec.colors[colored]} part stand for?", spec.rows[colored]),
        ("How many parts does the pie have?", str(len(values))),
    ]
    order = sorted(range(len(values)), key=lambda row: values[row])
    for word, best, next_best in (("largest", order[-1], order[-2]), ("smallest", order[0], order[1])):
        if abs(values[best] - values[next_best]) >= 0.02 * total:
            found.append((f"Which part is the {word}?", spec.rows[best]))
    return found


def scatter_questions(rng: random.Random, spec: ChartSpec) -> list[tuple[str, str]]:
    """How the two quantities go together, and the largest of each."""
    (x_name, across), (y_name, up) = spec.series.items()
    found = []
    for name, values in ((x_name, across), (y_name, up)):
        found.append((f"What is the largest value of {name}?", number(max(values))))
    r = correlation(across, up)
    if abs(r) > 0.7:
        found.append((f"Does {y_name} rise or fall as {x_name} rises?", "rise" if r > 0 else "fall"))
    return found


def correlation(across: tuple[float, ...], up: tuple[float, ...]) -> float:
    """Pearson's correlation; 0 where a column is constant."""
    mean_x, mean_y = sum(across) / len(across), sum(up) / len(up)
    covariance = sum((x - mean_x) * (y - mean_y) for x, y in zip(across, up, strict=True))
    spread = (sum((x - mean_x) ** 2 for x in across) * sum((y - mean_y) ** 2 for y in up)) ** 0.5
    return covariance / spread if spread else 0.0
