"""The layout of the Hub, which `datasets` reads without a script: `<folder>/data/<split>-00000-of-00012.parquet`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

Split = Literal["train", "validation", "test"]
SPLITS: tuple[str, ...] = get_args(Split)


def split_file(folder: Path, split: str, number: int, count: int) -> Path:
    """Where file `number` of the `count` files of a split lies."""
    return folder / "data" / f"{split}-{number:05d}-of-{count:05d}.parquet"


def split_pattern(split: str) -> str:
    """The files of a split as a pattern below the folder, as dataset cards write it."""
    return f"data/{split}-*.parquet"


def split_files(folder: Path, split: str) -> list[Path]:
    """The files of a split in order; none if the folder has no such split."""
    return sorted(folder.glob(split_pattern(split)))


def needed_split_files(folder: Path, split: str) -> list[Path]:
    """As `split_files`, for who cannot go on without.

    Raises:
        ValueError: there are none.
    """
    files = split_files(folder, split)
    if not files:
        raise ValueError(
            f"{folder} holds no {split_pattern(split)}; give a folder that `finevit corpus build` wrote, or the "
            "dataset of a run of `finevit caption`"
        )
    return files
