"""metadata.jsonl and metadata.csv beside pictures, laid out as `datasets` reads them (ImageFolder)."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

NAMES = ("metadata.jsonl", "metadata.csv")
FIELDS = ("source", "license", "split")


def read(root: Path, below: bool) -> tuple[dict[str, dict[str, str]], str]:
    """What the metadata files of a folder say.

    Args:
        below: read those of folders below `root` as well.

    Returns:
        Those of `FIELDS` that are given, for each picture that a file lists, by its path below `root` (the metadata
        file nearest to a picture wins), and a hash of the files, "" if they list nothing.

    Raises:
        ValueError: a file cannot be read, or a row names no file below `root`; says which file and line.
    """
    digest = hashlib.sha256()
    said: dict[str, dict[str, str]] = {}
    for path in _files(root, below):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
        said.update(_entries(root, path))
    return said, digest.hexdigest() if said else ""


def _files(root: Path, below: bool) -> list[Path]:
    """The metadata files, those of a folder before those of the folders in it."""
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if below and not name.startswith("."))
        found += [Path(folder, name) for name in NAMES if name in files]
    return sorted(found, key=lambda path: len(path.parts))


def _entries(root: Path, path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    below = path.parent.relative_to(root)
    for number, entry in _rows(path):
        if not isinstance(entry, dict) or not isinstance(entry.get("file_name"), str) or not entry["file_name"]:
            raise ValueError(f"{path}, line {number}: no 'file_name'")
        name = _checked_name(below, entry["file_name"], f"{path}, line {number}")
        yield name, {key: str(entry[key]) for key in FIELDS if entry.get(key) not in (None, "")}


def _checked_name(below: Path, given: str, where: str) -> str:
    name = PurePosixPath(os.path.normpath(below / given))
    if name.is_absolute() or name.parts[:1] == ("..",):
        raise ValueError(f"{where}: {given!r} leads out of the folder")
    if not name.parts or "\0" in given:
        raise ValueError(f"{where}: 'file_name' is {given!r}, which is no file")
    try:
        name.as_posix().encode()
    except UnicodeEncodeError:
        raise ValueError(f"{where}: 'file_name' is {given!r}, which is not UTF-8") from None
    return name.as_posix()


def _rows(path: Path) -> Iterator[tuple[int, object]]:
    number = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix == ".csv":
                yield from enumerate(csv.DictReader(file), start=2)
                return
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, json.loads(line)
    except (ValueError, csv.Error, RecursionError) as error:
        raise ValueError(
            f"{path}: cannot be read (at line {number or 'unknown'}: {error}); repair or remove it"
        ) from error
