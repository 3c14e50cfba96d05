"""The one door from data that people have to rows that training takes.

`open_source` tells what lies there by names, listings and the footers or first rows of files. What is wrong with one
row is said in place of that row and never raises.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from typing import TypeVar

from finecap.recipe_files import without_secrets
from finecap.sources.asked import Asked, asked_for
from finecap.sources.folder import FolderReader
from finecap.sources.meaning import Meaning, meaning_of
from finecap.sources.places import inline
from finecap.sources.readers import folder_of, reader_of
from finecap.sources.rows import Bad, BadRow, Item, Part, Reader, Row

T = TypeVar("T")
LOOKED_AT = 100  # rows in which a picture is looked for


class Source:
    """Rows of one kind, in parts of a fixed order. Can be pickled; opens files when it reads.

    Attributes:
        name: for people; also the `source` of records whose data names none.
        weight: as it was asked for.
        kind: "finecap", "captions", "pictures", a key of `finecap.sources.turns.FORMS`.
        parts: the same for the same files.
        unread: columns that nothing is made of.
        reads_blocks: whether pictures of a part lie in one block, so that reading one is about as dear as reading all.
    """

    def __init__(self, asked: Asked, reader: Reader, names: Collection[str], meaning: Meaning) -> None:
        self.name, self.weight, self.kind, self.parts = asked.name, asked.weight, meaning.kind, reader.parts
        self.unread = [name for name in names if name not in (*meaning.words, *meaning.pictures)]
        self.reads_blocks = not isinstance(reader, FolderReader)
        self._split, self._reader, self._meaning = asked.split, reader, meaning

    def read_rows(self, part: Part) -> list[Row | BadRow]:
        """Every row of a part in order, without the bytes of pictures.

        Where columns tell the sizes of pictures, no picture is read.

        Raises:
            StopRun: a file that was there is gone, or its server gives no answer any more.
        """
        meaning, sized = self._meaning, not self._meaning.has_sizes
        items = self._reader.read(part, (*meaning.words, *(meaning.pictures if sized else ())))
        rows = list(self._each(items, lambda item: self._row(item, part, sized)))
        unknown = [at for at, row in enumerate(rows) if isinstance(row, Row) and row.record and not row.sizes]
        if unknown:
            items = self._reader.read(part, meaning.pictures, frozenset(unknown))
            sizes = self._each(items, lambda item: (item.number, self._with_sizes(rows[item.number], item, part)))
            for number, row in list(sizes):
                rows[number] = row
        return rows

    def read_pictures(self, part: Part, rows: Collection[int]) -> dict[int, list[bytes] | BadRow]:
        """The encoded pictures of some rows, as they are stored.

        Args:
            rows: numbers in the part, from 0.

        Raises:
            StopRun: see `read_rows`.
        """
        wanted = sorted(set(rows))
        if not wanted:
            return {}
        items = self._reader.read(part, self._meaning.pictures, frozenset(wanted))
        found = dict(self._each(items, lambda item: (item.number, self._pictures(item, part))))
        for number in wanted:
            gone = BadRow(f"{part.path}#{part.start + number}", "unreadable: the file has fewer rows than it had")
            found.setdefault(number, gone)
        return found

    def _pictures(self, item: Item, part: Part) -> list[bytes] | BadRow:
        try:
            return [self._reader.picture(one, part) for one in self._meaning.references(_values(item))]
        except Bad as error:
            return BadRow(item.id, str(error))

    def _each(self, items: Iterator[Item], work: Callable[[Item], T]) -> Iterator[T]:
        """What comes of each item in order; of some at a time where their pictures have to be waited for."""
        if self._reader.at_once == 1:
            yield from map(work, items)
            return
        pool = ThreadPoolExecutor(self._reader.at_once)
        try:
            while some := list(islice(items, self._reader.at_once)):
                yield from pool.map(work, some)
        finally:
            pool.shutdown(cancel_futures=True)

    def _row(self, item: Item, part: Part, sized: bool) -> Row | BadRow:
        try:
            row = self._meaning.row(_values(item), item.id, self.name, self._split)
        except Bad as error:
            # Other data's own ids need not differ: LLaVA's are those of pictures.
            own = item.values.get("id") if self.kind == "finecap" and isinstance(item.values, dict) else None
            return BadRow(own if isinstance(own, str) and own else item.id, str(error), error.is_bad)
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


def open_source(spec: str | os.PathLike[str] | Mapping[str, object], split: str = "train") -> Source:
    """Open data for training.

    Args:
        spec: a path, a glob, a URL (hf://, s3://, https://), `datasets:NAME` or the id of a dataset on the Hub; or a
            mapping with `path` (or `name`, of a dataset that `datasets` loads), and maybe `weight`, `split`,
            `columns` ({image: ..., caption: ...}, where they have other than the usual names) and `image_folder`
            (where the paths of its pictures begin, if not beside the file that names them).
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
    if asked.image_folder is not None:
        _refuse_idle(asked, reader, meaning)
        reader.image_folder = folder_of(asked.image_folder)
    return Source(asked, reader, names, meaning)


def open_sources(specs: Sequence[str | Mapping[str, object]], split: str = "train") -> list[Source]:
    """Open several sources, as a recipe's `data` names them; of two with one name the second is called "NAME (2)".

    Raises:
        ValueError: one of them cannot be opened; names it.
    """
    sources: list[Source] = []
    names: Counter[str] = Counter()
    for spec in specs:
        try:
            source = open_source(spec, split)
        except (OSError, ValueError) as error:
            raise ValueError(f"{without_secrets(spec)!r} in `data` cannot be opened: {error}") from error
        names[source.name] += 1
        if names[source.name] > 1:
            source.name += f" ({names[source.name]})"
        sources.append(source)
    return sources


def _refuse_idle(asked: Asked, reader: Reader, meaning: Meaning) -> None:
    """Raises ValueError: the rows name no pictures by paths, as far as their first picture tells."""
    if isinstance(reader, FolderReader):
        held = "its pictures are its own files"
    elif not meaning.pictures:
        held = "it has no column of pictures"
    else:
        held = "" if isinstance(_first_picture(reader, meaning), str | None) else "its rows hold their pictures"
    if held:
        raise ValueError(f"{asked.where}: image_folder would have no effect, because {held}; leave it out")


def _first_picture(reader: Reader, meaning: Meaning) -> bytes | str | None:
    """What the first row with a picture has of it, among the first rows; None if they have none."""
    for item in islice(reader.read(reader.parts[0], meaning.pictures), LOOKED_AT):
        try:
            for reference in meaning.references(_values(item)):
                return inline(reference)
        except Bad:
            continue
    return None


def _first_row(reader: Reader, names: Collection[str]) -> str:
    first = next(iter(reader.read(reader.parts[0], names, (0,))), None)
    if first is None or isinstance(first.values, str):
        return f"its first row cannot be read ({first.values if first else 'there is none'})"
    return "its first row is " + str({name: str(value)[:60] for name, value in first.values.items()})[:600]
