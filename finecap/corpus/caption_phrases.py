"""Phrases of captions that are written the way the corpus describes its scenes: "A green cactus at the right; a fire
at the left." A recipe of the caption engine names this in place of the pass `phrases` where the nano checkpoint, which
was trained on such captions, finds the boxes: it finds "a green cactus at the right" far more often than "a cactus".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from finecap.engine.passes import Context, Row

EXTRACTOR = "corpus captions 1"
THING = re.compile(r"(?:an?|the) (?:[a-z-]+ )*?(?P<label>[a-z-]+(?: of [a-z]+)?) (?:at|in) the [a-z ]+", re.IGNORECASE)


def run(rows: Iterator[Row], options: Any, context: Context) -> Iterable[Row]:
    """See `finecap.engine.phrases`; `options` are not read. Captions of documents and charts give no phrases."""
    for row in rows:
        phrases = phrases_of(row["global_caption"] or "")
        context.counters["phrases"] += len(phrases)
        context.counters["captions without phrases"] += not phrases
        yield {"key": row["key"], "phrases": phrases, "phrase_extractor": EXTRACTOR, "reject": None}


def phrases_of(caption: str) -> list[Row]:
    """Each thing with its place once: `text`, and `label`, the noun."""
    found = {}
    for part in caption.rstrip(". \n").split(";"):
        if match := THING.fullmatch(part.strip()):
            found.setdefault(match[0].lower(), match["label"].lower())
    return [{"text": text, "label": label} for text, label in found.items()]
