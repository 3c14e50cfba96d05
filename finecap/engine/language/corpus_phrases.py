"""Phrases of captions in the words of the generated corpus, in place of the pass `phrases`.

Such captions are "A green cactus at the right; a fire at the left." or "A bar chart: USA 79, F 8." The nano checkpoint
was trained on them: it finds "a green cactus at the right" far more often than "a cactus". A recipe in which it finds
the boxes names this function.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from finecap.engine.contract import Context, Row

EXTRACTOR = "corpus captions 1"
THING = re.compile(r"(?:an?|the) (?:[a-z-]+ )*?(?P<label>[a-z-]+(?: of [a-z]+)?) (?:at|in) the [a-z ]+", re.IGNORECASE)
CHART = re.compile(r"A bar chart: (?P<bars>.+)", re.DOTALL)
BAR = re.compile(r"(?P<name>\S.*) (?P<value>\d+)")


def run(rows: Iterator[Row], options: Any, context: Context) -> Iterable[Row]:
    """See `finecap.engine.passes.phrases`; `options` are not read. Captions of forms give no phrases."""
    for row in rows:
        phrases = phrases_of(row["global_caption"] or "")
        context.counters["phrases"] += len(phrases)
        context.counters["captions without phrases"] += not phrases
        yield {"key": row["key"], "phrases": phrases, "phrase_extractor": EXTRACTOR, "reject": None}


def phrases_of(caption: str) -> list[Row]:
    """Each thing with its place, or each bar with its value, once: `text`, and `label`, the noun."""
    caption = caption.rstrip(". \n")
    if chart := CHART.fullmatch(caption):
        bars = [match for part in chart["bars"].split(", ") if (match := BAR.fullmatch(part))]
        found = {f"the bar for {bar['name']}, {bar['value']}": "bar" for bar in bars}
    else:
        things = [match for part in caption.split(";") if (match := THING.fullmatch(part.strip()))]
        found = {thing[0].lower(): thing["label"].lower() for thing in things}
    return [{"text": text, "label": label} for text, label in found.items()]
