"""Pass 4: global captions by an ensemble of captioners."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from finecap.engine.passes import Context, Row

COLUMNS = pa.schema(
    [
        ("captions", pa.list_(pa.struct([("style", pa.string()), ("text", pa.string()), ("captioner", pa.string())]))),
        ("global_caption", pa.string()),
        ("captioner", pa.string()),
    ]
)


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Options:
    """Attributes:
    styles: captions made of each image; "dense" becomes the record's global caption.
    prompts: template file; None for the one that ships.
    max_side: longer pictures are scaled down for the captioner, pixels.
    in_flight: requests at once in each worker.
    """

    CAPTIONS: ClassVar[bool] = True
    styles: tuple[str, ...] = ("short", "dense")
    prompts: Path | None = None
    max_side: int = 1344
    in_flight: int = 32


def run(rows: Iterator[Row], options: Options, context: Context) -> Iterable[Row]:
    raise NotImplementedError
