"""The one door from data that people have to rows that training takes.

`open_source` tells what lies there by names, listings and the footers or first rows of files. What is wrong with one
row is said in place of that row and never raises.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from finecap.sources.asked import Asked, asked_for
from finecap.sources.folder import FolderReader
from finecap.sources.meaning import Meaning, meaning_of
from finecap.sources.readers import reader_of
from finecap.sources.rows import Bad, BadRow, Item, Part, Reader, Row


class Source:
    """Rows of one kind, in parts of a fixed order. Can be pickled; opens files when it reads.

    Attributes:
        name: for people; also the `source` of records whose data names none.
        weight: as it was asked for.
        kind: "finecap", "captions", "pictures", "messages", "texts" or "conversations".
        parts: the same for the same files.
        reads_blocks: whether pictures of a part lie in one block, so that reading one is about as dear as reading all.
    """

    def __init__(self, asked: Asked, reader: Reader, meaning: Meaning) -> None:
        self.name, self.weight, self.kind, self.parts = asked.name, asked.weight, meaning.kind, reader.parts
        self.reads_blocks = not isinstance(reader, FolderReader)
        self._split, self._reader, self._meaning = asked.split, reader, meaning

    def read_rows(self, part: Part) -> list[Row | BadRow]:
        """Every row of a part in order, without the bytes of pictures.

        Where columns tell the sizes of pictures, no picture is read.

        Raises:
            StopRun: a file that was there is gone, or its server gives no answer any more.
        """
        meaning = self._meaning
        pictures = () if meaning.has_sizes else meaning.pictures
        rows = []
        for item in self._reader.read(part, (*meaning.words, *pictures)):
            rows.append(self._row(item, part, sized=not meaning.has_sizes))
        unknown = [at for at, row in enumerate(rows) if isinstance(row, Row) and row.record and not row.sizes]
        if unknown:
            for item in self._reader.read(part, meaning.pictures, unknown):
                rows[item.number] = self._with_sizes(rows[item.number], item, part)
        return rows

    def read_pictures(self, part: Part, rows: Collection[int]) -> dict[int, list[bytes] | BadRow]:
        """The encoded pictures of some rows, as they are stored.

        Args:
            rows: numbers in the part, from 0.

        Raises:
            StopRun: see `read_rows`.
        """
        found: dict[int, list[bytes] | BadRow] = {}
        wanted = frozenset(rows)
        for item in self._reader.read(part, self._meaning.pictures, wanted) if wanted else ():
            try:
                values = _values(item)
                found[item.number] = [self._reader.picture(one, part) for one in self._meaning.references(values)]
            except Bad as error:
                found[item.number] = BadRow(item.id, str(error))
        return found

    def _row(self, item: Item, part: Part, sized: bool) -> Row | BadRow:
        try:
            row = self._meaning.row(_values(item), item.id, self.name, self._split)
        except Bad as error:
            return BadRow(item.id, str(error))
        return self._with_sizes(row, item, part) if sized else row

    def _with_sizes(self, row: Row | BadRow, item: Item, part: Part) -> Row | BadRow:
        if isinstance(row, BadRow):
            return row
        try:
            references = self._meaning.references(_values(item))
            sizes = [self._reader.size(one, part) for one in references]
        except Bad as error:
            return BadRow(row.id, str(error))
        if row.record is None:
            return replace(row, sizes=sizes)
        width, height = sizes[0]
        return replace(row, sizes=sizes, record={**row.record, "width": width, "height": height})


def _values(item: Item) -> dict:
    if isinstance(item.values, str):
        raise Bad(item.values)
    return item.values


def open_source(spec: str | Mapping[str, object], split: str = "train") -> Source:
    """Open data for training.

    Args:
        spec: a path, a glob, a URL (hf://, s3://, https://), `datasets:NAME` or the id of a dataset on the Hub; or a
            mapping with `path` (or `name`, of a dataset that `datasets` loads), and maybe `weight`, `split` and
            `columns` ({image: ..., caption: ...}, where they have other than the usual names).
        split: if `spec` names none.

    Raises:
        ValueError: nothing is there, or it fits no kind; says what was found and what is expected.
    """
    asked = asked_for(spec, split)
    reader, names = reader_of(asked)
    if not reader.parts:
        raise ValueError(f"{asked.where}: holds no rows")
    try:
        meaning = meaning_of(names, asked.columns, asked.where)
    except ValueError as error:
        raise ValueError(f"{error}; {_first_row(reader, names)}") from error
    return Source(asked, reader, meaning)


def _first_row(reader: Reader, names: Collection[str]) -> str:
    first = next(iter(reader.read(reader.parts[0], names, (0,))), None)
    if first is None or isinstance(first.values, str):
        return f"its first row cannot be read ({first.values if first else 'there is none'})"
    return "its first row is " + str({name: str(value)[:60] for name, value in first.values.items()})[:600]
