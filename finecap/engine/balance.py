"""Pass 7: class-balanced sampling of the boxes over the whole collection."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from finecap.engine.passes import Context, Row

COLUMNS = pa.schema([("kept_objects", pa.list_(pa.int32()))])  # indices into `objects`


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Options:
    """Attributes:
    cap: boxes of a class that are kept at most, in expectation; FineViT caps at 100,000 a batch.
    whole_below: classes with fewer boxes are kept whole; FineViT: 1,000.
    """

    cap: int = 100_000
    whole_below: int = 1000


def run(rows: Iterator[Row], options: Options, context: Context) -> Iterable[Row]:
    raise NotImplementedError


def reduce(outputs: dict[str, list[Path]], options: Options, out: Path) -> None:
    raise NotImplementedError
