"""Tar archives in the WebDataset layout: members beside each other that share the path up to the first dot of the name
are one sample.

Members are read one at a time and only where they are needed; an archive that ends early says so. What strangers wrote
into a header never raises: the archive ends there, as one that is cut off.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Literal, Protocol

BLOCK = 512
MAX_JSON_BYTES = 2**20
# A header that claims more (of names and attributes) is taken for a broken one.
MAX_HEADER_BYTES = 2**22


@dataclass
class Sample:
    """One sample of an archive.

    Attributes:
        key: name of the picture's member, or of the sample if there is none; unique in the archive.
        data: the encoded picture, or None.
        said: what its .json member says, if that is an object.
        text: what its .txt member says, or its .cls where that is the name of a class and not a number.
        problem: why there is no picture, as a reject reason.
    """

    key: str
    data: bytes | None = None
    said: dict[str, Any] = field(default_factory=dict)
    text: str | None = None
    problem: str | None = None

    @property
    def fields(self) -> dict[str, str]:
        """The texts among what was said."""
        return {key: value for key, value in self.said.items() if isinstance(value, str) and value}


class Archived(Protocol):
    """A tar file that can be opened: a `Path`, or one elsewhere."""

    @property
    def name(self) -> str:
        """The name of the file."""
        ...

    def open(self, mode: Literal["rb"], /) -> BinaryIO:
        """The file for reading; it can seek."""
        ...


def count_samples(path: Archived) -> int:
    """How many samples can be read; looks at headers only."""
    with _Archive(path) as archive:
        return sum(1 for _ in archive.samples())


@dataclass
class Part:
    """Neighbouring samples of an archive.

    Attributes:
        start, stop: their numbers; None is to the end.
        offset: where the first one begins, in bytes; 0 if it can be found only by reading what lies before it.
        rows: how many `read_samples` gives, with the one that says what is wrong with the end.
        keys: of samples whose own key an earlier one of the archive has, by number.
    """

    start: int
    stop: int | None
    offset: int
    rows: int = 0
    keys: dict[int, str] = field(default_factory=dict)


def cut_samples(path: Archived, pictures: Collection[str], rows: int) -> list[Part]:
    """The archive in parts of `rows` samples; looks at headers only. The last part has no end: it also says what is
    wrong with the end of the archive.

    Args:
        pictures: as of `read_samples`.
    """
    parts = [Part(0, None, 0)]
    seen: set[str] = set()
    with _Archive(path) as archive:
        for number, (name, members) in enumerate(archive.samples()):
            if number and number % rows == 0:
                parts[-1].stop = number
                parts.append(Part(number, None, 0 if archive.has_global_headers else members[0].offset))
            parts[-1].rows += 1
            own = _own_key(name, _picture_of(members, pictures))
            key = _unique(own, seen)
            if key != own:
                parts[-1].keys[number] = key
        parts[-1].rows += archive.problem is not None
    return parts


def read_samples(
    path: Archived,
    pictures: Collection[str],
    max_bytes: int,
    start: int,
    stop: int | None,
    offset: int = 0,
    keys: Mapping[int, str] | None = None,
    wanted: Collection[int] | None = None,
) -> Iterator[Sample]:
    """Samples `start` to `stop`. With `stop` None, an archive that is cut off or corrupt ends in a sample with that
    problem.

    Args:
        pictures: suffixes (with dot) of the members that are pictures; a sample has one, the first of those with the
            fewest dots.
        max_bytes: a larger picture is a problem and is not read.
        offset, keys: of the `Part`.
        wanted: numbers of the samples whose pictures are read; all if None.

    Raises:
        OSError: no such file, or its disk fails.
    """
    seen: set[str] = set()
    with _Archive(path, offset) as archive:
        for number, (name, members) in enumerate(archive.samples(), start=start if offset else 0):
            if stop is not None and number >= stop:
                return
            picture = _picture_of(members, pictures)
            key = _unique(_own_key(name, picture), seen)
            if number >= start:
                sample = _read(archive, (keys or {}).get(number, key), picture, members, max_bytes)
                if picture and not sample.problem and (wanted is None or number in wanted):
                    sample.data, sample.problem = archive.read(picture)
                yield sample
        if stop is None and archive.problem:
            yield Sample(f"(end of {path.name})", problem=archive.problem)


def split_name(name: str) -> tuple[str, str] | None:
    """The key of a member and its suffix without the dot; None for one that belongs to no sample. The same as
    `webdataset.tariterators.base_plus_ext`, whose pattern takes time with the square of the length.
    """
    folder, slash, last = name.rpartition("/")
    stem, dot, suffix = last.partition(".")
    if not dot or (not stem and (not slash or "." in folder.rpartition("/")[2])):
        return None
    return folder + slash + stem, suffix


def _picture_of(members: list[tarfile.TarInfo], pictures: Collection[str]) -> tarfile.TarInfo | None:
    """`x.jpg` rather than `x.mask.png`."""
    found = [one for one in members if f".{one.name.lower().rpartition('.')[2]}" in pictures]
    return min(found, key=lambda one: one.name.rpartition("/")[2].count("."), default=None)


def _printable(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()


def _own_key(name: str, picture: tarfile.TarInfo | None) -> str:
    return _printable(picture.name if picture else name)


def _unique(key: str, seen: set[str]) -> str:
    """An archive may hold a name twice."""
    number, found = 1, key
    while found in seen:
        number += 1
        found = f"{key}#{number}"
    seen.add(found)
    return found


def _read(
    archive: _Archive, key: str, picture: tarfile.TarInfo | None, members: list[tarfile.TarInfo], max_bytes: int
) -> Sample:
    sample = Sample(key)
    for member in members:
        name = member.name.lower()
        if not member.isreg() or member.size > MAX_JSON_BYTES:
            continue
        if name.endswith(".json"):
            sample.said = _fields(archive.read(member)[0])
        elif name.endswith(".txt") or (name.endswith(".cls") and sample.text is None):
            text = (archive.read(member)[0] or b"").decode("utf-8", "replace").strip()
            sample.text = text if name.endswith(".txt") or not text.isdigit() else None
    if picture is None:
        if not sample.fields.get("url"):
            sample.problem = f"no picture: only {', '.join(_printable(one.name) for one in members)}"[:300]
    elif not picture.isreg():
        sample.problem = f"unreadable: the archive holds a link or device in place of {key}; store the file itself"[
            :300
        ]
    elif picture.size > max_bytes:
        sample.problem = f"too large: {picture.size} bytes"
    return sample


def _fields(data: bytes | None) -> dict[str, Any]:
    """A JSON object; anything else says nothing of the picture."""
    try:
        content = json.loads(data or b"{}")
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


class _Bounded:
    """A file that ends where it ends, whatever size or place a header asks for."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        here = file.tell()
        self._size = file.seek(0, os.SEEK_END)
        file.seek(here)
        self.most = MAX_HEADER_BYTES

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._size - self._file.tell())
        return self._file.read(min(left if size < 0 else size, left, self.most))

    def seek(self, place: int) -> int:
        return self._file.seek(max(0, min(place, self._size)))

    def tell(self) -> int:
        return self._file.tell()


class _Archive:
    """A tar file that is read member by member, from `offset` on, and forgets those behind it.

    Attributes:
        problem: once it is read through, why it ends where it does, or None if it ends as it should.
    """

    def __init__(self, path: Archived, offset: int = 0) -> None:
        self.problem: str | None = None
        self._file = path.open("rb")
        self._file.seek(offset)
        self._bounded = _Bounded(self._file)
        self._tar: tarfile.TarFile | None = None
        try:
            self._tar = tarfile.TarFile(fileobj=self._bounded, mode="r")  # ty: ignore[invalid-argument-type]
        except Exception as error:  # on corrupt headers tarfile raises nearly everything
            self._broken(error, "unreadable: not a tar archive")

    def __enter__(self) -> _Archive:
        return self

    def __exit__(self, *_: object) -> None:
        if self._tar:
            self._tar.close()
        self._file.close()

    @property
    def has_global_headers(self) -> bool:
        """Are there headers that hold for all members behind them, so that none can be read without those?"""
        return bool(self._tar and self._tar.pax_headers)

    def samples(self) -> Iterator[tuple[str, list[tarfile.TarInfo]]]:
        """Key and members of each sample in turn. A name that comes again begins a new sample."""
        key, members, names = "", [], set()
        for own, member in self._members():
            if members and (own != key or member.name in names):
                yield key, members
                members, names = [], set()
            key = own
            members.append(member)
            names.add(member.name)
        if members:
            yield key, members

    def _members(self) -> Iterator[tuple[str, tarfile.TarInfo]]:
        while self._tar:
            self._bounded.most = MAX_HEADER_BYTES
            try:
                member = self._tar.next()
            except Exception as error:
                self._broken(error, "truncated: the archive is cut off or corrupt")
                return
            if member is None:
                self.problem = self._end()
                return
            vars(self._tar)["members"].clear()  # or all members stay in memory
            name = split_name(member.name)
            if name and not member.isdir() and not (member.name.startswith("__") and member.name.endswith("__")):
                yield name[0], member

    def _broken(self, error: Exception, what: str) -> None:
        if isinstance(error, OSError) and error.errno is not None:  # the disk, not the file
            raise error
        self.problem = f"{what} ({str(error)[:200]})"

    def _end(self) -> str | None:
        """`tarfile` ends quietly at a header that is cut off or corrupt; a sound archive ends in a block of zeros."""
        assert self._tar is not None
        self._bounded.seek(self._tar.offset)
        if self._file.read(BLOCK) == bytes(BLOCK):
            return None
        return "truncated: the archive ends without its end mark"

    def read(self, member: tarfile.TarInfo) -> tuple[bytes | None, str | None]:
        """The content of a member, or None and why."""
        assert self._tar is not None
        self._bounded.most = member.size
        content = self._tar.extractfile(member)
        if content is None:
            return None, "unreadable: no regular file"
        with closing(content):
            try:
                data = content.read()
            except (tarfile.TarError, ValueError) as error:
                return None, f"truncated: {error}"
        if len(data) != member.size:
            return None, f"truncated: {len(data)} of {member.size} bytes"
        return data, None
