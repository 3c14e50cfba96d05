"""Which reader a place takes, by the names of its files."""

from __future__ import annotations

import re
from dataclasses import replace

from finecap.shards.plan import PICTURES
from finecap.sources.asked import Asked
from finecap.sources.folder import folder_reader
from finecap.sources.parquet import parquet_reader
from finecap.sources.places import KNOWN, TABLES, Files, Place, local_files, local_folder, suffix
from finecap.sources.rows import Reader
from finecap.sources.saved import is_saved, saved_reader
from finecap.sources.tars import tar_reader
from finecap.sources.text_tables import text_reader

# What `datasets` reads beside pictures (ImageFolder); the column of their paths is `file_name`.
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
# What `datasets` writes beside data about it.
ABOUT = ("dataset_info.json", "dataset_infos.json")
# Words of file and folder names that stand for a split, as `datasets` takes them.
SPLIT_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}


def reader_of(asked: Asked) -> tuple[Reader, list[str]]:
    """The reader of what was asked for, and the names of its columns.

    Raises:
        ValueError: there is nothing, or files of several kinds.
    """
    if asked.by_name or is_saved(asked.where):
        return saved_reader(asked.where, asked.split, asked.by_name)
    if "://" in asked.where:
        from finecap.sources.remote import remote_files

        files = remote_files(asked.where)
    else:
        files = local_files(asked.where)
    return _by_suffix(files if files.named else _of_split(_data_of(files), asked), asked)


def folder_of(path: str) -> Place:
    """The folder that pictures are in.

    Raises:
        ValueError: it is not there.
    """
    if "://" in path:
        from finecap.sources.remote import remote_folder

        return remote_folder(path)
    return local_folder(path)


def _by_suffix(files: Files, asked: Asked) -> tuple[Reader, list[str]]:
    described = [name for name in files.sizes if name.rpartition("/")[2] in METADATA]
    if described and set(files.suffixes) & PICTURES:
        reader, columns = _by_suffix(_only(files, described), asked)
        return reader, [name for name in columns if name != "image"]
    kinds = set(files.suffixes)
    if ".parquet" in kinds:
        _refuse_others(files, {".parquet"}, asked)
        reader = parquet_reader(files.place, list(files.sizes))
        return reader, reader.schema.names
    if ".tar" in kinds:
        _refuse_others(files, {".tar"}, asked)
        reader = tar_reader(files.place, list(files.sizes))
        return reader, reader.columns
    if kinds & set(TABLES):
        _refuse_others(files, set(TABLES), asked)
        reader = text_reader(files.place, list(files.sizes))
        return reader, reader.columns
    if kinds & PICTURES:
        _refuse_others(files, {*PICTURES, ".txt"}, asked)
        reader = folder_reader(files)
        return reader, ["image", "caption"] if reader.texts else ["image"]
    found = ", ".join(list(files.sizes)[:3]) or "no file of a known kind"
    raise ValueError(f"{asked.where}: holds {found}; {KNOWN}")


def _only(files: Files, names: list[str]) -> Files:
    return replace(files, sizes={name: files.sizes[name] for name in names})


def _data_of(files: Files) -> Files:
    """The files of a folder without those that tell of others.

    Where a folder `data` holds parquet files, as in repositories of the Hub, they alone are meant. Of `00000.tar`,
    `00000.parquet` and `00000_stats.json`, as img2dataset writes them, the archive is.
    """
    below = [name for name in files.sizes if name.startswith("data/") and suffix(name) == ".parquet"]
    if below:
        return _only(files, below)
    archives = {name.removesuffix(".tar") for name in files.sizes if suffix(name) == ".tar"}
    told = {name for name in files.sizes if name.rpartition("/")[2] in ABOUT} | {
        name
        for name in files.sizes
        if suffix(name) in (".parquet", ".json") and name.removesuffix(suffix(name)).removesuffix("_stats") in archives
    }
    return _only(files, [name for name in files.sizes if name not in told])


def _of_split(files: Files, asked: Asked) -> Files:
    """The files whose names say this split; where none says any, all of them are "train".

    Raises:
        ValueError: others are named, and this one is not.
    """
    by_split: dict[str | None, list[str]] = {}
    for name in files.sizes:
        by_split.setdefault(_split_of(name), []).append(name)
    if set(by_split) <= {None} and asked.split == "train":
        return files
    if asked.split not in by_split:
        named = ", ".join(sorted(split for split in by_split if split))
        there = f"there are {named}" if named else "no name says a split, so all of it is train"
        raise ValueError(
            f"{asked.where}: holds no files of the split {asked.split!r}; {there}. A folder or a file of rows belongs "
            f"to it when its name has the word, such as {asked.split}/"
        )
    return _only(files, by_split[asked.split])


def _split_of(name: str) -> str | None:
    """The split that the folders of a path say, and for containers of rows also the name of the file."""
    said = name.rpartition("/")[0] if suffix(name) in (*PICTURES, ".txt") else name
    words = set(re.split(r"[^a-z0-9]+", said.lower()))
    return next((split for split, known in SPLIT_WORDS.items() if words & set(known)), None)


def _refuse_others(files: Files, fitting: set[str], asked: Asked) -> None:
    first = files.suffixes
    if others := [name for kind, name in first.items() if kind not in fitting]:
        fit = next(name for kind, name in first.items() if kind in fitting)
        raise ValueError(
            f"{asked.where}: holds files of different kinds, such as {fit} and {others[0]}; name the file that is the "
            f"data, or give a pattern such as '{asked.where}/*{suffix(fit)}'"
        )
