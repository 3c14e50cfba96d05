"""Pass 3: drop exact and near duplicates over the whole collection."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from finecap.engine.passes import Context, Row

COLUMNS = pa.schema([("duplicate_of", pa.string())])


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Options:
    """Attributes:
    max_distance: bits of the 256 of a perceptual hash in which near duplicates differ at most.
    bands: the hash is cut into so many; more than `max_distance` of them find every near duplicate.
    """

    max_distance: int = 15
    bands: int = 16


def run(rows: Iterator[Row], options: Options, context: Context) -> Iterable[Row]:
    raise NotImplementedError


def reduce(outputs: dict[str, list[Path]], options: Options, out: Path) -> None:
    raise NotImplementedError
