"""Pictures out of large files, in the order in which they are stored, a few in memory at a time."""

import tarfile
from collections.abc import Hashable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

Row = tuple[Path, int]
"""A row of a parquet file: the file and the row's number there."""
ROWS = 32


def pictures_in_parquet(rows: Iterable[Any]) -> Iterator[tuple[Row, bytes]]:
    """Each row with the bytes in its column `image`.

    Args:
        rows: `Row`s, in any order, given back file by file.
    """
    wanted: dict[Path, set[int]] = {}
    for path, number in rows:
        wanted.setdefault(path, set()).add(number)
    for path, numbers in wanted.items():
        first = 0
        for batch in pq.ParquetFile(path).iter_batches(ROWS, columns=["image"]):
            column = batch.column("image")
            for number in range(first, first + len(batch)):
                if number in numbers:
                    yield (path, number), column[number - first].as_py()["bytes"]
            first += len(batch)


def pictures_in_tar(archive: Path, names: Iterable[Hashable]) -> Iterator[tuple[str, bytes]]:
    """Members of an archive by their names, in its order; a compressed one is read through once."""
    wanted = set(names)
    with tarfile.open(archive, "r|*") as members:
        for member in members:
            if member.name in wanted and (content := members.extractfile(member)) is not None:
                yield member.name, content.read()
