"""The input: a folder of pictures, parquet files or WebDataset archives, cut into shards that never change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from finecap.engine.passes import Row


@dataclass(frozen=True)
class Shard:
    """A part of the input.

    Attributes:
        name: unique and stable: number and a hash of what it covers, so that changed input gets a new name.
        kind: "folder", "parquet" or "webdataset".
        files: paths, of pictures or of one container file.
        start, stop: range of rows within the container file; None is to the end.
    """

    name: str
    kind: str
    files: tuple[str, ...]
    start: int = 0
    stop: int | None = None


def plan_shards(source: Path, rows_per_shard: int) -> list[Shard]:
    """Cut the input into shards, the same for the same input."""
    raise NotImplementedError


def read_shard(shard: Shard) -> Iterator[Row]:
    """Every item of a shard, in order: `key` (unique in the collection), `bytes` (encoded picture or None), `url` (or
    None), and whatever of `source`, `license`, `split` the input knows (or None)."""
    raise NotImplementedError
