"""CSV, TSV, JSON lines and JSON arrays as rows, in UTF-8: a part is a range of bytes with at most 256 rows.

Opening reads each file through once, to find where rows begin and which columns they have; nothing else is kept.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from finecap.sources.folder import ROWS_PER_PART
from finecap.sources.places import FileReader, Place, suffix
from finecap.sources.rows import Item, Part

BYTES_PER_PART = 2**26
# A longer line is taken for several, and an element of an array that is longer for a broken file.
MAX_LINE_BYTES = 2**24
CHUNK = 2**20
BOM = b"\xef\xbb\xbf"
SPACE = b" \t\r\n"


def _whole(digits: str) -> int | float:
    """Python makes no int of thousands of digits, which would cost the file that holds them."""
    return int(digits) if len(digits) < 1000 else float(digits)


_DECODER = json.JSONDecoder(parse_int=_whole)


@dataclass
class TextReader(FileReader):
    """Rows of text files.

    Attributes:
        forms: "lines", "array", or the delimiter of a CSV file, by file.
        headers: the names of the columns of each CSV file.
        columns: all names.
    """

    forms: dict[str, str] = field(default_factory=dict)
    headers: dict[str, list[str]] = field(default_factory=dict)
    columns: list[str] = field(default_factory=list)

    def read(self, part: Part, columns: Collection[str], wanted: Collection[int] | None = None) -> Iterator[Item]:
        """See `Reader`; all columns come."""
        with self.place.open(part.path) as file:
            file.seek(part.offset)
            for number, values in enumerate(self._values(file, part)):
                if wanted is None or number in wanted:
                    yield Item(number, f"{part.path}#{part.start + number}", values)

    def _values(self, file: BinaryIO, part: Part) -> Iterator[dict[str, Any] | str]:
        form = self.forms[part.path]
        if form == "array":
            yield from _elements(file.read((part.end or 0) - part.offset), part.rows or 0)
            return
        lines = _Lines(file, part.offset, part.end)
        if form == "lines":
            yield from (_parsed(line) for line in lines if line.strip())
            return
        header = self.headers[part.path]
        for _, fields in _csv_rows(lines, form):
            if isinstance(fields, str) or len(fields) != len(header):
                yield fields if isinstance(fields, str) else f"row: {len(fields)} fields, expected {len(header)}"
            else:
                yield dict(zip(header, fields, strict=True))


def text_reader(place: Place, names: list[str]) -> TextReader:
    """The rows of these files.

    Raises:
        ValueError: a file is empty or no such table.
    """
    reader = TextReader(place)
    columns: dict[str, None] = {}
    for name in names:
        where = f"{place.root}/{name}"
        with place.open(name) as file:
            start = len(BOM) if file.read(len(BOM)) == BOM else 0
            file.seek(start)
            form = {".csv": ",", ".tsv": "\t"}.get(suffix(name)) or _json_form(file, start)
            reader.forms[name] = form
            lines = _Lines(file, start, None)
            if form == "array":
                rows = _noted(_array_rows(file, start, where), columns)
            elif form == "lines":
                rows = _noted(((lines.before, lines.at, line) for line in lines if line.strip()), columns)
            else:
                header = reader.headers[name] = _header(lines, form, where)
                columns |= dict.fromkeys(header)
                rows = ((before, lines.at) for before, _ in _csv_rows(lines, form))
            reader.parts += _cut(name, rows)
    reader.columns = list(columns)
    if not columns and reader.parts:
        first = next(iter(reader.read(reader.parts[0], ())))
        raise ValueError(f"{place.root}/{first.id}: {first.values}; expected an object with named fields")
    return reader


def _cut(name: str, rows: Iterator[tuple[int, int]]) -> Iterator[Part]:
    """Parts of rows that begin and end at these bytes."""
    first, begin, end, count = 0, 0, 0, 0
    for start, stop in rows:
        if count and (count == ROWS_PER_PART or stop - begin > BYTES_PER_PART):
            yield Part(name, first, first + count, begin, end)
            first, count = first + count, 0
        begin = begin if count else start
        end, count = stop, count + 1
    if count:
        yield Part(name, first, first + count, begin, end)


def _noted(rows: Iterator[tuple[int, int, bytes]], columns: dict[str, None]) -> Iterator[tuple[int, int]]:
    """Where rows begin and end. Names of fields are noted of all rows: JSON leaves out those that a row lacks."""
    for begin, end, data in rows:
        values = _parsed(data)
        columns |= dict.fromkeys(values if isinstance(values, dict) else ())
        yield begin, end


class _Lines:
    """Lines of a file from here to `end`, and where the last one begins and ends."""

    def __init__(self, file: BinaryIO, start: int, end: int | None) -> None:
        self._file, self._end, self.before, self.at = file, end, start, start

    def __iter__(self) -> Iterator[bytes]:
        while self._end is None or self.at < self._end:
            line = self._file.readline(MAX_LINE_BYTES)
            if not line:
                return
            self.before, self.at = self.at, self.at + len(line)
            yield line

    def back_behind(self, start: int) -> None:
        """Go on behind the line that begins there."""
        self._file.seek(start)
        self.before, self.at = start, start
        next(iter(self))


def _csv_rows(lines: _Lines, delimiter: str) -> Iterator[tuple[int, list[str] | str]]:
    """Where each row begins, and its fields or what is wrong with them.

    A quote that is not closed as it should be costs its own line, as do bytes that are not UTF-8. Else it would take
    the rows up to the next quote for the words of one field.
    """
    reader = _csv_reader(lines, delimiter)
    while True:
        before = lines.at
        try:
            fields: list[str] | str = next(reader)
        except StopIteration:
            return
        except (csv.Error, _NotUTF8) as error:
            fields = f"unreadable: {error}"
            lines.back_behind(before)
            reader = _csv_reader(lines, delimiter)
        if fields:  # an empty line is no row
            yield before, fields


def _csv_reader(lines: _Lines, delimiter: str) -> Iterator[list[str]]:
    return csv.reader((_text(line) for line in lines), delimiter=delimiter, strict=True)


class _NotUTF8(ValueError):
    """Bytes of another encoding; read as UTF-8 all the same, words would be trained with marks in place of letters."""


def _text(data: bytes) -> str:
    """Raises _NotUTF8."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = data[max(0, error.start - 40) : error.start].decode("utf-8", "replace")
        raise _NotUTF8(f"byte {data[error.start]:#x} behind {before!r} is not UTF-8; save the file as UTF-8") from None


def _header(lines: _Lines, delimiter: str, where: str) -> list[str]:
    _, fields = next(_csv_rows(lines, delimiter), (0, "it is empty"))
    if isinstance(fields, str) or len(set(fields)) < len(fields) or not all(fields):
        raise ValueError(f"{where}: its first line is {str(fields)[:200]}, expected the names of its columns")
    return fields


def _parsed(line: bytes) -> dict[str, Any] | str:
    try:
        return _object(_DECODER.decode(_text(line).strip()))
    except _NotUTF8 as error:
        return f"unreadable: {error}"
    except (ValueError, RecursionError) as error:
        return f"unreadable: {str(error)[:100]} in {line[:80].decode('utf-8', 'replace')!r}"


def _elements(data: bytes, count: int) -> list[dict[str, Any] | str]:
    array = b"[" + data + b"]"
    try:
        return [_object(one) for one in _DECODER.decode(_text(array))]
    except _NotUTF8:
        return [_parsed(one) for _, _, one in _array_rows(io.BytesIO(array), 0, "")]
    except (ValueError, RecursionError) as error:  # the file was changed, or this is nested deeper than the stack now
        return [f"unreadable: {str(error)[:100]}"] * count


def _object(value: Any) -> dict[str, Any] | str:
    return value if isinstance(value, dict) else f"row: {str(value)[:80]!r}, expected an object with named fields"


def _json_form(file: BinaryIO, start: int) -> str:
    """An array, or lines, whatever the suffix says: both go by both names."""
    head = file.read(CHUNK).lstrip(SPACE)
    file.seek(start)
    return "array" if head[:1] == b"[" else "lines"


def _array_rows(file: BinaryIO, start: int, where: str) -> Iterator[tuple[int, int, bytes]]:
    """Where each element begins and ends, and its bytes. Read as Latin-1, a byte is a character, and JSON is the same
    JSON.

    Raises:
        ValueError: it is no JSON, or an element is too long.
    """
    window = _Window(file, start)
    window.skip()
    window.drop(1)
    if window.skip() == "]":
        return
    while True:
        begin = window.offset
        try:
            element = window.element()
        except ValueError as error:
            raise ValueError(f"{where}: is no JSON from byte {begin} on ({error}); repair it") from error
        yield begin, window.offset, element
        mark = window.skip()
        window.drop(1)
        if mark == "]":
            return
        if mark != ",":
            raise ValueError(f"{where}: is no JSON at byte {window.offset - 1}: {mark!r}, expected , or ]; repair it")
        window.skip()


class _Window:
    """What was read of a file and not yet used."""

    def __init__(self, file: BinaryIO, offset: int) -> None:
        self._file, self.offset, self._text, self._at = file, offset, "", 0

    def _more(self) -> bool:
        data = self._file.read(max(CHUNK, len(self._text) - self._at))
        self._text, self._at = self._text[self._at :] + data.decode("latin-1"), 0
        return bool(data)

    def drop(self, count: int) -> None:
        """Go on behind so many characters."""
        self._at += count
        self.offset += count

    def skip(self) -> str:
        """Go on behind white space; returns the next character, "" at the end."""
        while True:
            while self._text[self._at : self._at + 1] in tuple(SPACE.decode()):
                self.drop(1)
            if self._at < len(self._text) or not self._more():
                return self._text[self._at : self._at + 1]

    def element(self) -> bytes:
        """Go on behind an element and return its bytes. Raises ValueError: there is none."""
        while True:
            try:
                end = _DECODER.raw_decode(self._text, self._at)[1]
                if end < len(self._text):  # or it may be a number that goes on
                    element = self._text[self._at : end].encode("latin-1")
                    self.drop(end - self._at)
                    return element
                if not self._more():
                    raise ValueError("it ends in the middle")
            except RecursionError as error:
                raise ValueError("nested too deep") from error
            except ValueError:
                if len(self._text) - self._at > MAX_LINE_BYTES or not self._more():
                    raise
