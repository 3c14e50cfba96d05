"""Pass 9: words and lines with their boxes by PaddleOCR's models, in reading order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyarrow as pa
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from finecap.engine.passes import Context, Row

COLUMNS = pa.schema(
    [
        (
            "texts",
            pa.list_(
                pa.struct(
                    [
                        ("bbox", pa.list_(pa.float32(), 4)),  # x1, y1, x2, y2 in pixels
                        ("level", pa.string()),  # "line" or "word"
                        ("text", pa.string()),
                        ("score", pa.float32()),
                        ("line", pa.int32()),  # number of the line in reading order; a word has that of its line
                    ]
                )
            ),
        ),
        ("ocr_engine", pa.string()),
    ]
)


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Options:
    """Attributes:
    min_score: lines read with less confidence are dropped and counted.
    """

    min_score: float = 0.5


def run(rows: Iterator[Row], options: Options, context: Context) -> Iterable[Row]:
    raise NotImplementedError
