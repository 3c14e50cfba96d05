"""Datasets that the library `datasets` loads: by name, or from a folder that its `save_to_disk` wrote."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

from finecap.sources.folder import ROWS_PER_PART
from finecap.sources.parquet import python_rows
from finecap.sources.places import PictureFinder, Place
from finecap.sources.rows import Bad, Item, Part

if TYPE_CHECKING:
    from datasets import Dataset

# What `save_to_disk` writes of one split, and of several.
MARKS = ("state.json", "dataset_dict.json")


class DatasetReader(PictureFinder):
    """Rows of a `datasets.Dataset`, which is memory-mapped; pictures stay encoded."""

    def __init__(self, dataset: Dataset, name: str) -> None:
        self._rows: Any = dataset.with_format("arrow")
        count = len(dataset)
        self.parts = [Part(name, start, min(start + ROWS_PER_PART, count)) for start in range(0, count, ROWS_PER_PART)]

    @property
    def at_once(self) -> int:
        return self.image_folder.at_once if self.image_folder else 1

    def read(self, part: Part, columns: Collection[str], wanted: Collection[int] | None = None) -> Iterator[Item]:
        """See `Reader`."""
        numbers = [at for at in range(part.rows or 0) if wanted is None or at in wanted]
        table = self._rows.select_columns(list(columns))[part.start : part.stop].take(numbers)
        for number, values in zip(numbers, python_rows(table), strict=True):
            yield Item(number, f"{part.path}#{part.start + number}", values)

    def beside(self, path: str, part: Part) -> tuple[Place, str]:
        """See `PictureFinder`."""
        raise Bad(
            f"path refused: {path[:200]!r}; of a dataset, pictures that it holds itself are read, or those of the "
            "image_folder that a source names"
        )


def is_saved(folder: str) -> bool:
    """Did `save_to_disk` write this folder?"""
    return any(os.path.isfile(os.path.join(folder, mark)) for mark in MARKS)


def saved_reader(where: str, split: str, by_name: bool) -> tuple[DatasetReader, list[str]]:
    """The reader and its columns.

    Args:
        where: name of a dataset if `by_name`, else a folder.

    Raises:
        ValueError: there is none, or it has no such split.
    """
    import datasets

    try:
        found = datasets.load_dataset(where, split=split) if by_name else datasets.load_from_disk(where)
    except (OSError, ValueError) as error:
        here = f"there is no folder or file {where} here, and as a name on the Hub " if by_name else ""
        raise ValueError(f"{where}: {here}`datasets` cannot load it: {error}") from error
    if isinstance(found, datasets.DatasetDict):
        if split not in found:
            raise ValueError(f"{where}: has no split {split!r}; there are {', '.join(map(str, found))}")
        found = found[split]
    named = str(found.split or split).partition("[")[0]
    if not by_name and named != split:
        raise ValueError(f"{where}: holds the split {named!r}, and {split!r} is asked for")
    return DatasetReader(found, where), found.column_names
