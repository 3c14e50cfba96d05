"""Where a source lies: its files by name, on this disk or (finecap.sources.remote) behind a URL.

Paths inside of data are strangers' words: none is followed out of the source's folder, and no link is fetched.
"""

from __future__ import annotations

import glob
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol

from finecap.errors import StopRun
from finecap.shards.on_disk import MAX_ITEM_BYTES, UNREADABLE, checked_name, is_inside, read_whole, sizes_below
from finecap.shards.plan import PICTURES
from finecap.sources.rows import Bad, Part, Reference, Size
from finecap.sources.sizes import upright_size, upright_size_of

TABLES = (".csv", ".tsv", ".jsonl", ".json")
SUFFIXES = frozenset((*PICTURES, *TABLES, ".txt", ".parquet", ".tar"))
NAMED = 200  # characters of a missing file's name in a reason
BRACES, RANGE = re.compile(r"\{([^{}]*)\}"), re.compile(r"(\d{1,18})\.\.(\d{1,18})")
MOST_NAMED = 100_000  # files that a pattern may stand for
URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*:")
KNOWN = (
    "known are a folder of pictures, parquet, .tar (WebDataset), .csv, .tsv, .jsonl and .json files, a folder of "
    "`datasets.save_to_disk`, and the id of a dataset on the Hub"
)


class Place(Protocol):
    """A folder whose files are read by their paths below it. Picklable; holds no open file."""

    @property
    def root(self) -> str:
        """A path or a URL."""
        ...

    @property
    def at_once(self) -> int:
        """How many files are asked for at a time."""
        ...

    def open(self, name: str, in_order: bool = True) -> BinaryIO:
        """A file for reading, which can seek.

        Args:
            in_order: mostly read from front to end, so that more may be fetched than is asked for.

        Raises:
            StopRun: it is gone.
        """
        ...

    def inside(self, name: str, reference: str) -> str:
        """The path below the root of what the file `name` refers to, relative to itself.

        Raises:
            Bad: that leads out of the root.
        """
        ...

    def picture(self, name: str) -> bytes:
        """A whole file. Raises Bad: it is missing, too large or no regular file."""
        ...

    def size(self, name: str) -> Size:
        """The upright size of a picture. Raises Bad."""
        ...


@dataclass(frozen=True)
class LocalPlace:
    """A folder of this disk."""

    root: str
    at_once: int = 1

    def open(self, name: str, in_order: bool = True) -> BinaryIO:
        path = Path(self.root, name)
        try:
            return path.open("rb")
        except OSError as error:
            raise StopRun(
                f"{path}: cannot be read ({error.strerror}); it was there when the source was opened. Bring it back, "
                "or start again without it."
            ) from error

    def inside(self, name: str, reference: str) -> str:
        path = os.path.join(self.root, os.path.dirname(name), reference)
        try:
            if is_inside(Path(self.root), path):
                return os.path.relpath(path, self.root)
        except ValueError:  # no name of a file system: it holds a zero or half a surrogate pair
            pass
        raise Bad(f"path refused: {reference[:200]!r} leads out of the source's folder, itself or over a link")

    def picture(self, name: str) -> bytes:
        data, problem = read_whole(Path(self.root, name))
        if data is None:
            raise Bad(f"{problem}: {name[-NAMED:]}")
        return data

    def size(self, name: str) -> Size:
        path = Path(self.root, name)
        try:
            if not os.path.isfile(path):  # a pipe would be waited on for ever
                raise Bad(f"{read_whole(path)[1]}: {name[-NAMED:]}")
            with path.open("rb") as file:
                return upright_size_of(file, MAX_ITEM_BYTES)
        except OSError as error:
            if error.errno not in UNREADABLE:
                raise
            raise Bad(f"unreadable: {error.strerror}: {name[-NAMED:]}") from error


class PictureFinder(ABC):
    """How readers find the picture that a row refers to.

    Attributes:
        image_folder: where paths of pictures are looked for, if not where `found` looks without it.
    """

    image_folder: Place | None = None

    def picture(self, reference: Reference, part: Part) -> bytes:
        """See `finecap.sources.rows.Reader`, as `size`."""
        data = inline(reference)
        if isinstance(data, bytes):
            return data
        place, path = self.found(data, part)
        return place.picture(path)

    def size(self, reference: Reference, part: Part) -> Size:
        data = inline(reference)
        if isinstance(data, bytes):
            return upright_size(data)
        place, path = self.found(data, part)
        return place.size(path)

    def found(self, path: str, part: Part) -> tuple[Place, str]:
        """The place of a picture, and its path there. Raises Bad: it may not be followed."""
        if self.image_folder is not None:
            return self.image_folder, self.image_folder.inside("", path)
        return self.beside(path, part)

    @abstractmethod
    def beside(self, path: str, part: Part) -> tuple[Place, str]:
        """As `found`, where no folder is named."""


@dataclass
class FileReader(PictureFinder):
    """What readers of files share: their place and their parts."""

    place: Place
    parts: list[Part] = field(default_factory=list)

    @property
    def at_once(self) -> int:
        return (self.image_folder or self.place).at_once

    def beside(self, path: str, part: Part) -> tuple[Place, str]:
        return self.place, self.place.inside(part.path, path)


def inline(reference: Reference) -> bytes | str:
    """The bytes that a reference holds, or the path that it names.

    Raises:
        Bad: it holds neither, or a link.
    """
    if isinstance(reference, Mapping):
        reference = reference.get("bytes") or reference.get("path")
    if isinstance(reference, bytes) and reference:
        return reference
    if not isinstance(reference, str) or not reference:
        kind = type(reference).__name__
        raise Bad(f"no picture: {'nothing is there' if not reference else f'a {kind}, expected bytes or a path'}")
    if URL.match(reference):
        raise Bad(f"link: {reference[:80]!r} is not fetched; `finevit caption` with ingest.allow_urls does that")
    return reference


@dataclass(frozen=True)
class Files:
    """What lies at a place.

    Attributes:
        sizes: bytes of each file of a known kind, by path below the root, in order.
        named: the files were named one by one (a path, a glob), and not found in a folder.
    """

    place: Place
    sizes: dict[str, int]
    named: bool

    @property
    def suffixes(self) -> dict[str, str]:
        """The first file of each suffix."""
        found: dict[str, str] = {}
        for name in self.sizes:
            found.setdefault(suffix(name), name)
        return found


def _named(path: str, pattern: str) -> list[str]:
    """One file, or those of a glob; it is among the names that `pattern` stands for."""
    if os.path.isfile(path):
        return [path]
    found = sorted(one for one in glob.glob(path, recursive=True) if os.path.isfile(one))
    if not found and path != pattern:
        raise ValueError(f"{path}: no such file, and the pattern {pattern} names it")
    if not found:
        raise ValueError(
            f"{path}: no file matches this pattern"
            if glob.has_magic(path)
            else f"{path}: no such file or folder; {KNOWN}"
        )
    return found


def expanded(pattern: str) -> list[str]:
    """The names that braces stand for, as webdataset writes them: `{00000..00099}`, `{a,b}`; other braces stay.

    Raises:
        ValueError: they are too many.
    """
    for braces in BRACES.finditer(pattern):
        if choices := _choices(braces[1], pattern):
            before, after = pattern[: braces.start()], pattern[braces.end() :]
            names: dict[str, None] = {}
            for one in choices:
                names |= dict.fromkeys(expanded(before + one + after))
                if len(names) > MOST_NAMED:
                    raise ValueError(f"{pattern}: stands for more than {MOST_NAMED:,} files; name fewer")
            return list(names)
    return [pattern]


def _choices(inside: str, pattern: str) -> list[str]:
    if between := RANGE.fullmatch(inside):
        first, last = int(between[1]), int(between[2])
        if abs(last - first) >= MOST_NAMED:
            raise ValueError(f"{pattern}: stands for more than {MOST_NAMED:,} files; name fewer")
        padded = any(one.startswith("0") and len(one) > 1 for one in between.groups())
        width = max(map(len, between.groups())) if padded else 0
        step = 1 if last >= first else -1
        return [f"{number:0{width}}" for number in range(first, last + step, step)]
    return inside.split(",") if "," in inside else []


def local_folder(path: str) -> LocalPlace:
    """Raises ValueError: it is no folder."""
    path = os.path.abspath(os.path.expanduser(path))
    if not os.path.isdir(path):
        raise ValueError(f"image_folder {path}: no such folder")
    return LocalPlace(path)


def suffix(name: str) -> str:
    """Of a path, in lower case and with its dot."""
    return PurePosixPath(name).suffix.lower()


def local_files(path: str) -> Files:
    """The files of a folder, of a pattern (see `expanded`), or one file.

    Raises:
        ValueError: there is nothing, or not all that a pattern names.
    """
    path = os.path.abspath(os.path.expanduser(path))
    if os.path.isdir(path):
        return Files(LocalPlace(path), sizes_below(Path(path), Path(path), SUFFIXES), named=False)
    found = [path] if os.path.isfile(path) else [file for one in expanded(path) for file in _named(one, path)]
    root = os.path.commonpath([os.path.dirname(one) for one in found])
    names = {checked_name(os.path.relpath(one, root)): os.path.getsize(one) for one in found}
    return Files(LocalPlace(root), names, named=True)
