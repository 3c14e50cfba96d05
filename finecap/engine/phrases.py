"""Pass 5: noun phrases of the global caption."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyarrow as pa
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from finecap.engine.passes import Context, Row

COLUMNS = pa.schema(
    [
        ("phrases", pa.list_(pa.struct([("text", pa.string()), ("label", pa.string())]))),  # label: lemma of the head
        ("phrase_extractor", pa.string()),
    ]
)


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Options:
    """Attributes:
    model: spaCy pipeline, by package name or folder; None for the plain rules, which the record then says.
    """

    model: str | None = None


def run(rows: Iterator[Row], options: Options, context: Context) -> Iterable[Row]:
    raise NotImplementedError
