"""metadata.jsonl and metadata.csv beside pictures, laid out as `datasets` reads them (ImageFolder)."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath

NAMES = ("metadata.jsonl", "metadata.csv")


def listed_files(root: Path) -> tuple[list[str], str]:
    """The pictures, as paths below `root`, that the metadata files below `root` list, and a hash of those files.

    Raises:
        ValueError: a metadata file cannot be read, has no `file_name`, or names a file outside of `root`.
    """
    digest, names = hashlib.sha256(), []
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(set(files) & set(NAMES)):
            path = Path(folder, name)
            digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
            names += [picture for picture, _ in _entries(root, path)]
    return names, digest.hexdigest() if names else ""


def fields_of(root: Path, pictures: Collection[str]) -> dict[str, dict[str, str]]:
    """What metadata says of some pictures; the metadata file nearest to a picture wins.

    The files are read through, and only the rows of these pictures kept.
    """
    wanted = set(pictures)
    folders = {PurePosixPath(".")}.union(*(PurePosixPath(name).parents for name in wanted))
    found: dict[str, dict[str, str]] = {}
    for folder in sorted(folders, key=lambda path: len(path.parts)):
        for name in NAMES:
            if (path := root / folder / name).is_file():
                found.update((picture, fields) for picture, fields in _entries(root, path) if picture in wanted)
    return found


def _entries(root: Path, path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    below = path.parent.relative_to(root)
    for number, entry in _rows(path):
        if not isinstance(entry, dict) or not entry.get("file_name"):
            raise ValueError(f"{path}, line {number}: no 'file_name'")
        name = PurePosixPath(os.path.normpath(below / str(entry["file_name"])))
        if name.is_absolute() or name.parts[0] == "..":
            raise ValueError(f"{path}, line {number}: {entry['file_name']!r} leads out of the folder")
        fields = {key: str(value) for key, value in entry.items() if isinstance(key, str) and value not in (None, "")}
        yield name.as_posix(), fields


def _rows(path: Path) -> Iterator[tuple[int, object]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix == ".csv":
                yield from enumerate(csv.DictReader(file), start=2)
                return
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, json.loads(line)
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path}: cannot be read ({error}); mend it or take it away") from error
