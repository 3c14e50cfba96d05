"""What a person asks for as a source of data."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from finecap.hub import is_hub_id
from finecap.sources.meaning import COLUMNS

DATASETS = "datasets:"
KEYS = ("path", "name", "weight", "columns", "split", "image_folder")


@dataclass(frozen=True)
class Asked:
    """A source as it was asked for.

    Attributes:
        where: path, glob or URL; or the name of a dataset, if `by_name`.
        name: for people.
        columns: names of the columns `image` and `caption`, if given.
        image_folder: path or URL of the folder that paths of pictures are in; by default that of the file that names
            them.
    """

    where: str
    by_name: bool
    name: str
    split: str
    weight: float
    columns: Mapping[str, str]
    image_folder: str | None = None


def asked_for(spec: str | os.PathLike[str] | Mapping[str, object], split: str) -> Asked:
    """Read a spec, see `open_source`.

    Raises:
        ValueError: it is none.
    """
    given = {"path": spec} if isinstance(spec, str | os.PathLike) else spec
    if not isinstance(given, Mapping):
        raise ValueError(f"a source is {given!r}, expected a path or a mapping with {', '.join(KEYS)}")
    if unknown := [str(key) for key in given if key not in KEYS]:
        raise ValueError(f"a source has {', '.join(unknown)}, expected {', '.join(KEYS)}")
    places = [_plain(given[key]) for key in ("path", "name") if given.get(key) is not None]
    if len(places) != 1 or not isinstance(places[0], str) or not places[0]:
        raise ValueError(f"a source has path {given.get('path')!r} and name {given.get('name')!r}; give one of them")
    where, chosen_split = places[0], given.get("split", split)
    if not isinstance(chosen_split, str) or not chosen_split:
        raise ValueError(f"{where}: split is {chosen_split!r}, expected a name such as train")
    by_name = "name" in given or where.startswith(DATASETS) or is_hub_id(where)
    where = where.removeprefix(DATASETS)
    image_folder = _plain(given.get("image_folder"))
    if not (image_folder is None or (isinstance(image_folder, str) and image_folder)):
        raise ValueError(f"{where}: image_folder is {image_folder!r}, expected the path or the URL of a folder")
    weight, columns = _weight(given, where), _columns(given, where)
    return Asked(where, by_name, _short(where), chosen_split, weight, columns, image_folder)


def _plain(place: object) -> object:
    return os.fspath(place) if isinstance(place, os.PathLike) else place


def _short(where: str) -> str:
    path = PurePosixPath(re.sub(r"[?#].*", "", where))
    parts = [part for part in path.parts if not set(part) & set("*?[{}") and part not in ("data", "/", ".", "..")]
    return PurePosixPath(parts[-1]).stem if parts else where


def _weight(given: Mapping[str, object], where: str) -> float:
    weight = given.get("weight", 1.0)
    if not isinstance(weight, int | float) or not math.isfinite(weight) or weight <= 0:
        raise ValueError(f"{where}: weight is {weight!r}, expected a number above 0")
    return float(weight)


def _columns(given: Mapping[str, object], where: str) -> dict[str, str]:
    columns = given.get("columns") or {}
    if not isinstance(columns, Mapping) or not all(
        key in COLUMNS and isinstance(value, str) and value for key, value in columns.items()
    ):
        raise ValueError(f"{where}: columns is {columns!r}, expected names for {' and '.join(COLUMNS)}")
    return {str(key): str(value) for key, value in columns.items()}
