"""Parquet files as rows: a part is a row group, and only the columns that are asked for are read."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from finecap.errors import StopRun
from finecap.shards.plan import READ_BUFFER, READ_BYTES, READ_ROWS
from finecap.sources.places import FileReader, LocalPlace, Place
from finecap.sources.rows import Item, Part

# Footers that are read at once (most of the time is waiting), and that a process keeps.
FOOTERS_AT_ONCE, FOOTERS_KEPT = 8, 8
# Row groups with pictures that are fetched at once; larger ones come piece by piece, so that memory stays flat.
AT_ONCE_BYTES = 2**25


@dataclass
class ParquetReader(FileReader):
    """Row groups of parquet files."""

    schema: pa.Schema = field(default_factory=lambda: pa.schema([]))
    _footers: dict[str, pq.FileMetaData] = field(default_factory=dict, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_footers": {}}

    def read(self, part: Part, columns: Collection[str], wanted: Collection[int] | None = None) -> Iterator[Item]:
        """See `Reader`; each row left in a row group that cannot be read is a problem of its own."""
        number, problem = 0, "unreadable: the row group holds fewer rows than it says"
        try:
            with self.place.open(part.path, in_order=False) as file:
                for batch in self._batches(file, part, columns):
                    chosen = [at for at in range(len(batch)) if wanted is None or number + at in wanted]
                    found = batch if len(chosen) == len(batch) else batch.take(chosen) if chosen else None
                    for at, one in zip(chosen, python_rows(found) if found else [], strict=True):
                        yield self._item(part, number + at, one)
                    number += len(batch)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            if getattr(error, "errno", None) is not None:  # the disk, not the file
                raise
            problem = f"unreadable: {str(error)[:200]}"
        for at in range(number, part.rows or 0):
            if wanted is None or at in wanted:
                yield self._item(part, at, problem)

    def _item(self, part: Part, number: int, values: dict[str, Any] | str) -> Item:
        return Item(number, f"{part.path}#{part.start + number}", values)

    def _batches(self, file: Any, part: Part, columns: Collection[str]) -> Iterator[pa.RecordBatch]:
        footer = self._footer(part.path, file)
        group = part.offset
        if group >= footer.num_row_groups or footer.row_group(group).num_rows != part.rows:
            raise StopRun(
                f"{self.place.root}/{part.path}: its row groups are not those that it had when the source was opened; "
                "start again, and do not write to data that is read"
            )
        # Not by the sizes of single columns: pyarrow ends the process where a footer's statistics are corrupt.
        size = footer.row_group(group).total_byte_size
        small = size <= AT_ONCE_BYTES or not any(_holds_bytes(self.schema.field(name).type) for name in columns)
        # pyarrow's reading threads spare requests to far places, and abort a process that ends while they start.
        far = not isinstance(self.place, LocalPlace)
        opened = pq.ParquetFile(
            file, metadata=footer, pre_buffer=small and far, buffer_size=0 if small else READ_BUFFER
        )
        rows = max(part.rows or 1, 1)
        at_once = rows if small else max(1, min(READ_ROWS, READ_BYTES * rows // size))
        yield from opened.iter_batches(at_once, row_groups=[group], columns=list(columns), use_threads=False)

    def _footer(self, path: str, file: Any) -> pq.FileMetaData:
        if path not in self._footers:
            if len(self._footers) >= FOOTERS_KEPT:
                del self._footers[next(iter(self._footers))]
            self._footers[path] = pq.read_metadata(file)
            file.seek(0)
        return self._footers[path]


def _holds_bytes(kind: pa.DataType) -> bool:
    """May a column of this type hold pictures?"""
    inner = [kind.field(at).type for at in range(kind.num_fields)]
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or any(map(_holds_bytes, inner))


def python_rows(batch: pa.RecordBatch | pa.Table) -> list[dict[str, Any] | str]:
    """The rows as Python values; in place of those that are none (text that is not UTF-8, an odd date), why."""
    try:
        return batch.to_pylist()
    except (pa.ArrowException, ValueError, OverflowError) as error:
        if len(batch) == 1:
            return [f"unreadable: {str(error)[:200]}"]
        return [row for at in range(len(batch)) for row in python_rows(batch.slice(at, 1))]


def parquet_reader(place: Place, names: list[str]) -> ParquetReader:
    """The row groups of these files, by their footers.

    Raises:
        ValueError: a file is no parquet, or has other columns than the first.
    """

    def footer(name: str) -> tuple[pa.Schema, list[int]]:
        try:
            with place.open(name, in_order=False) as file:
                found = pq.read_metadata(file)
                rows = [found.row_group(at).num_rows for at in range(found.num_row_groups)]
                return found.schema.to_arrow_schema(), rows
        except (pa.ArrowException, OSError) as error:
            raise ValueError(
                f"{place.root}/{name}: cannot be read as parquet ({error}); repair or remove it"
            ) from error

    reader = ParquetReader(place)
    with ThreadPoolExecutor(FOOTERS_AT_ONCE) as pool:
        for name, (schema, counts) in zip(names, pool.map(footer, names), strict=True):
            if not reader.parts and not reader.schema.names:
                reader.schema, first = schema, name
            if len(set(schema.names)) < len(schema.names):
                raise ValueError(f"{place.root}/{name}: has two columns of one name among {', '.join(schema.names)}")
            if set(schema.names) != set(reader.schema.names):
                raise ValueError(
                    f"{place.root}/{name}: its columns are {', '.join(schema.names)}, and those of {first} are "
                    f"{', '.join(reader.schema.names)}; give files of one kind"
                )
            start = 0
            for group, rows in enumerate(counts):
                if rows:
                    reader.parts.append(Part(name, start, start + rows, offset=group))
                start += rows
    return reader
