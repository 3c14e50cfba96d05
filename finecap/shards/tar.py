"""Tar archives in the WebDataset layout: members that share the path up to the first dot of the name are one sample.

Members are read one at a time and only where they are needed; an archive that ends early says so.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Collection, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

SPLIT = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")  # as in webdataset.tariterators
BLOCK = 512
MAX_JSON_BYTES = 2**20


@dataclass
class Sample:
    """One sample of an archive.

    Attributes:
        key: name of the picture's member, or of the sample if there is none; unique in the archive.
        data: the encoded picture, or None.
        fields: what its .json member says.
        problem: why there is no picture, as a reject reason.
    """

    key: str
    data: bytes | None = None
    fields: dict[str, str] = field(default_factory=dict)
    problem: str | None = None


def count_samples(path: Path) -> int:
    """How many samples can be read; looks at headers only."""
    with _Archive(path) as archive:
        return sum(1 for _ in archive.samples())


def read_samples(
    path: Path, pictures: Collection[str], max_bytes: int, start: int, stop: int | None
) -> Iterator[Sample]:
    """Samples `start` to `stop`. With `stop` None, an archive that is cut off or corrupt ends in a sample with that
    problem.

    Args:
        pictures: suffixes (with dot) of the members that are pictures; a sample has one, the first of those with the
            fewest dots.
        max_bytes: a larger picture is a problem and is not read.

    Raises:
        OSError: no such file, or its disk fails.
    """
    seen: dict[str, int] = {}
    with _Archive(path) as archive:
        for number, (name, members) in enumerate(archive.samples()):
            if stop is not None and number >= stop:
                return
            picture = _picture_of(members, pictures)
            key = _unique(_printable(picture.name if picture else name), seen)
            if number >= start:
                yield _read(archive, key, picture, members, max_bytes)
        if stop is None and archive.problem:
            yield Sample(f"(end of {path.name})", problem=archive.problem)


def _picture_of(members: list[tarfile.TarInfo], pictures: Collection[str]) -> tarfile.TarInfo | None:
    """`x.jpg` rather than `x.mask.png`."""
    found = [one for one in members if f".{one.name.lower().rpartition('.')[2]}" in pictures]
    return min(found, key=lambda one: one.name.rpartition("/")[2].count("."), default=None)


def _printable(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()


def _unique(key: str, seen: dict[str, int]) -> str:
    """An archive may hold a name twice."""
    seen[key] = seen.get(key, 0) + 1
    return key if seen[key] == 1 else f"{key}#{seen[key]}"


def _read(
    archive: _Archive, key: str, picture: tarfile.TarInfo | None, members: list[tarfile.TarInfo], max_bytes: int
) -> Sample:
    sample = Sample(key)
    for member in members:
        if member.name.lower().endswith(".json") and member.size <= MAX_JSON_BYTES:
            sample.fields = _fields(archive.read(member)[0])
    if picture is None:
        if not sample.fields.get("url"):
            sample.problem = f"no picture: only {', '.join(_printable(one.name) for one in members)}"[:300]
    elif picture.size > max_bytes:
        sample.problem = f"too large: {picture.size} bytes"
    else:
        sample.data, sample.problem = archive.read(picture)
    return sample


def _fields(data: bytes | None) -> dict[str, str]:
    """The texts of a JSON object; anything else says nothing of the picture."""
    try:
        content = json.loads(data or b"{}")
    except (ValueError, RecursionError):
        return {}
    if not isinstance(content, dict):
        return {}
    return {key: value for key, value in content.items() if isinstance(value, str) and value}


class _Archive:
    """A tar file that is read member by member and forgets those behind it.

    Attributes:
        problem: once it is read through, why it ends where it does, or None if it ends as it should.
    """

    def __init__(self, path: Path) -> None:
        self.problem: str | None = None
        self._file = path.open("rb")
        self._tar: tarfile.TarFile | None = None
        try:
            self._tar = tarfile.TarFile(fileobj=self._file, mode="r")
        except tarfile.TarError as error:
            self.problem = f"unreadable: not a tar archive ({error})"

    def __enter__(self) -> _Archive:
        return self

    def __exit__(self, *_: object) -> None:
        if self._tar:
            self._tar.close()
        self._file.close()

    def samples(self) -> Iterator[tuple[str, list[tarfile.TarInfo]]]:
        """Key and members of each sample in turn."""
        for key, members in groupby(self._members(), key=lambda pair: pair[0]):
            yield key, [member for _, member in members]

    def _members(self) -> Iterator[tuple[str, tarfile.TarInfo]]:
        while self._tar:
            try:
                member = self._tar.next()
            except tarfile.TarError as error:
                self.problem = f"truncated: the archive is cut off or corrupt ({error})"
                return
            if member is None:
                self.problem = self._end()
                return
            vars(self._tar)["members"].clear()  # or all members stay in memory
            name = SPLIT.match(member.name)
            if member.isreg() and name and not (member.name.startswith("__") and member.name.endswith("__")):
                yield name[1], member

    def _end(self) -> str | None:
        """`tarfile` ends quietly at a header that is cut off or corrupt; a sound archive ends in a block of zeros."""
        assert self._tar is not None
        self._file.seek(self._tar.offset)
        if self._file.read(BLOCK) == bytes(BLOCK):
            return None
        return "truncated: the archive ends without its end mark"

    def read(self, member: tarfile.TarInfo) -> tuple[bytes | None, str | None]:
        """The content of a member, or None and why."""
        assert self._tar is not None
        content = self._tar.extractfile(member)
        if content is None:
            return None, "unreadable: no regular file"
        with closing(content):
            try:
                data = content.read()
            except tarfile.TarError as error:
                return None, f"truncated: {error}"
        if len(data) != member.size:
            return None, f"truncated: {len(data)} of {member.size} bytes"
        return data, None
