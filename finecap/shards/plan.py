"""The input: a folder of pictures, parquet files or WebDataset archives, cut into shards that never change.

Planning looks at names, sizes, parquet footers and archive headers, never at a picture. A collection of more than 1000
archives is not even scanned: each archive is a shard then, whatever `rows_per_shard` says.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from finecap.shards import sidecar
from finecap.shards import tar as archives
from finecap.shards.on_disk import MAX_ITEM_BYTES, checked_name, is_inside, read_whole, sizes_below

# Those Pillow cannot open are taken as well, so that they end as rejects and not as nothing.
_PICTURE = "jpg jpeg jpe jfif png webp gif bmp tif tiff avif heic heif jp2 jxl ppm pgm"
PICTURES = frozenset(f".{name}" for name in _PICTURE.split())
KINDS = {**dict.fromkeys(PICTURES, "folder"), ".parquet": "parquet", ".tar": "webdataset"}
MAX_SCANNED_ARCHIVES = 1000
# Rows of a parquet file that are read at a time, and the bytes that they hold at most: fewer rows if these are more.
READ_ROWS, READ_BYTES = 32, 2**26
READ_BUFFER = 2**20

Row = dict[str, Any]


@dataclass(frozen=True)
class Shard:
    """A part of the input.

    Attributes:
        name: unique and stable: number and a hash of what it covers, so that changed input gets a new name.
        kind: "folder", "parquet" or "webdataset".
        files: paths below `root`, of pictures or of one container file.
        start, stop: range of rows within the container file; None is to the end.
        root: the folder that the input is in.
        offset, keys: of an archive, see `finecap.shards.tar.Part`.
        fields: what metadata files say of pictures, by path.
        in_store: `files` and `fields` lie in a file of the run (`Store.listing`) and not here.
    """

    name: str = ""
    kind: str = ""
    files: tuple[str, ...] = ()
    start: int = 0
    stop: int | None = None
    root: str = ""
    offset: int = 0
    keys: Mapping[int, str] = field(default_factory=dict)
    fields: Mapping[str, dict[str, str]] = field(default_factory=dict)
    in_store: bool = False


def plan_shards(source: Path, rows_per_shard: int) -> list[Shard]:
    """Cut the input into shards, the same for the same names, sizes and sidecar metadata.

    Args:
        source: a folder with pictures, parquet files or `.tar` archives anywhere below it, or one such file. Hidden
            files and links that lead out of the folder are skipped. Where there is a folder `data` with parquet files,
            as in repositories of the Hub, it alone is the input. A metadata.jsonl or metadata.csv beside pictures is
            read as `datasets` does (`file_name`, and here `source`, `license`, `split`).
        rows_per_shard: images in a shard; a shard never spans two container files.

    Raises:
        ValueError: nothing is there, kinds are mixed, a parquet file has no pictures, metadata cannot be read.
    """
    source = Path(os.path.abspath(source))
    if not source.exists():
        raise ValueError(f"{source}: no such file or folder; --in names a folder, a parquet file or a .tar archive")
    root, sizes = _files_below(source) if source.is_dir() else (source.parent, _single_file(source))
    kind = _kind_of(sizes, source)
    if kind == "folder":
        cuts, note = _cut_folder(root, sizes, rows_per_shard, whole=source.is_dir())
    elif kind == "parquet":
        cuts, note = _cut_parquet(root, sizes, rows_per_shard), ""
    else:
        cuts, note = _cut_archives(root, sizes, rows_per_shard), ""
    shards = []
    for number, cut in enumerate(cuts):
        content = json.dumps([kind, [(name, sizes.get(name)) for name in cut.files], cut.start, cut.stop, note])
        digest = hashlib.sha256(content.encode()).hexdigest()[:10]
        shards.append(replace(cut, name=f"{number:05d}-{digest}", kind=kind, root=str(root)))
    if not shards:
        raise ValueError(f"{source}: holds no rows")
    return shards


def read_shard(shard: Shard) -> Iterator[Row]:
    """Every item of a shard, in order, one at a time.

    One member of an archive is in memory at a time; of a parquet file 32 rows or 64 MB, but at least a row and a page
    (if a page is a whole row group of pictures, all of it).

    Yields:
        `key` (unique in the collection: the picture's path below the input, file.parquet#row, file.tar/member),
        `bytes` (encoded picture or None), `url` (or None), `source`, `license`, `split` (None where the input does not
        say) and `problem`: None, or why there is nothing to read, as a reject reason.

    Raises:
        OSError: the input as a whole is gone or its disk fails; what is wrong with one item is a `problem`.
    """
    if not Path(shard.root).is_dir():
        raise FileNotFoundError(f"{shard.root}: the folder of the input is gone")
    if shard.kind == "folder":
        return _read_folder(shard)
    if shard.kind == "parquet":
        return _read_parquet(shard)
    return _read_archive(shard)


def _files_below(folder: Path) -> tuple[Path, dict[str, int]]:
    """The input's folder and the size of each file in it of a known kind, by path below it."""
    data = folder / "data"
    if data.is_dir() and any(data.rglob("*.parquet")):
        sizes = sizes_below(folder, data, KINDS)
        return folder, {name: size for name, size in sizes.items() if name.endswith(".parquet")}
    return folder, sizes_below(folder, folder, KINDS)


def _single_file(path: Path) -> dict[str, int]:
    return {checked_name(path.name): path.stat().st_size}


def _kind_of(sizes: dict[str, int], source: Path) -> str:
    first: dict[str, str] = {}
    for name in sizes:
        suffix = Path(name).suffix.lower()
        if suffix not in KINDS:
            raise ValueError(f"{source}: {suffix or 'no suffix'} is not known; {_KNOWN}")
        first.setdefault(KINDS[suffix], name)
    if not first:
        raise ValueError(
            f"{source}: no pictures are in this folder (hidden files, and links that lead out of it, are not read); "
            f"{_KNOWN}"
        )
    if len(first) > 1:
        raise ValueError(f"{source}: holds different kinds ({', '.join(first.values())}); give each a run of its own")
    return next(iter(first))


_KNOWN = f"known are pictures ({', '.join(sorted(PICTURES))}), .parquet and .tar"


def _cut_folder(root: Path, sizes: dict[str, int], rows: int, whole: bool) -> tuple[list[Shard], str]:
    """Pictures in order of their paths; those that metadata lists and that are not there are planned too, as what
    cannot be read. Not those behind links that lead out of the folder, whoever lists them.
    """
    said, digest = sidecar.read(root, whole)
    listed = said if whole else {}
    names = sorted({*sizes, *(name for name in listed if is_inside(root, os.path.join(root, name)))})
    cuts = []
    for at in range(0, len(names), rows):
        files = tuple(names[at : at + rows])
        cuts.append(Shard(files=files, fields={name: said[name] for name in files if said.get(name)}))
    return cuts, digest if whole else ""


def _cut_parquet(root: Path, sizes: dict[str, int], rows: int) -> list[Shard]:
    cuts: list[Shard] = []
    for name in sizes:
        try:
            footer = pq.read_metadata(root / name)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{root / name}: cannot be read as parquet ({error}); repair or remove it") from error
        _picture_columns(footer.schema.to_arrow_schema(), root / name)
        ranges = [(at, min(at + rows, footer.num_rows)) for at in range(0, footer.num_rows, rows)]
        cuts += [Shard(files=(name,), start=start, stop=stop) for start, stop in ranges]
    return cuts


def _cut_archives(root: Path, sizes: dict[str, int], rows: int) -> list[Shard]:
    if len(sizes) > MAX_SCANNED_ARCHIVES:
        return [Shard(files=(name,)) for name in sizes]
    return [
        Shard(files=(name,), start=part.start, stop=part.stop, offset=part.offset, keys=part.keys)
        for name in sizes
        for part in archives.cut_samples(root / name, PICTURES, rows)
    ]


def _picture_columns(schema: pa.Schema, path: Path) -> list[str]:
    """Which of the columns are read.

    Raises:
        ValueError: neither pictures nor links to them are among the columns.
    """
    there = [name for name in ("image", "url", *sidecar.FIELDS) if name in schema.names]
    if "image" in there:
        kind = schema.field("image").type
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            kind = kind.field("bytes").type
        if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
            raise ValueError(f"{path}: its column 'image' is {kind}, expected bytes or a struct with bytes")
    elif "url" not in there:
        raise ValueError(f"{path}: has no column 'image' or 'url'; its columns are {', '.join(schema.names)}")
    if "url" in there and not _is_text(schema.field("url").type):
        if "image" not in there:
            raise ValueError(f"{path}: its column 'url' is {schema.field('url').type}, expected text")
        there.remove("url")
    return there


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return any(check(kind) for check in (pa.types.is_string, pa.types.is_large_string, pa.types.is_null))


def _read_folder(shard: Shard) -> Iterator[Row]:
    for name in shard.files:
        data, problem = read_whole(Path(shard.root, name))
        said = shard.fields.get(name, {})
        yield _row(name, data, problem, {field: said.get(field) for field in sidecar.FIELDS})


def _row(key: str, data: bytes | None, problem: str | None, fields: Row) -> Row:
    """Texts are untrusted: half a surrogate pair cannot be written to parquet."""
    texts = {name: value and value.encode("utf-8", "replace").decode() for name, value in fields.items()}
    return {"key": key, "bytes": data, "url": None, "problem": problem, **texts}


def _read_parquet(shard: Shard) -> Iterator[Row]:
    """The rows of a range; each row left in a row group that cannot be read is a problem."""
    name = shard.files[0]
    # Without these two, a column of a row group is fetched whole before its first row comes out.
    with pq.ParquetFile(Path(shard.root, name), pre_buffer=False, buffer_size=READ_BUFFER) as file:
        columns = _picture_columns(file.schema_arrow, Path(shard.root, name))
        stop = file.metadata.num_rows if shard.stop is None else shard.stop
        first = 0
        for number in range(file.num_row_groups):
            last = first + file.metadata.row_group(number).num_rows
            if first < stop and last > shard.start:
                for row, values in enumerate(_row_group(file, number, columns, last - first), start=first):
                    if shard.start <= row < stop:
                        yield _parquet_row(f"{name}#{row}", values)
                    elif row >= stop:
                        break
            first = last


def _row_group(file: pq.ParquetFile, number: int, columns: list[str], rows: int) -> Iterator[Row | str]:
    """Each row, or in place of those that cannot be read, why."""
    done = 0
    at_once = rows_at_once(file.metadata, columns)
    try:
        for batch in file.iter_batches(at_once, row_groups=[number], columns=columns):
            for row in range(len(batch)):  # one by one: pictures become Python objects only when their turn comes
                yield {column: batch.column(column)[row].as_py() for column in batch.schema.names}
                done += 1
    except (pa.ArrowException, OSError) as error:
        if getattr(error, "errno", None) is not None:  # the disk, not the file
            raise
        for _ in range(rows - done):
            yield f"unreadable: {error}"


def rows_at_once(footer: pq.FileMetaData, columns: Collection[str]) -> int:
    """How many rows of a parquet file to read at a time, so that rows with large pictures do not fill the memory."""
    largest = 1
    for group in map(footer.row_group, range(footer.num_row_groups)):
        chunks = (group.column(number) for number in range(group.num_columns))
        size = sum(one.total_uncompressed_size for one in chunks if one.path_in_schema.split(".")[0] in columns)
        largest = max(largest, size // max(1, group.num_rows))
    return max(1, min(READ_ROWS, READ_BYTES // largest))


def _parquet_row(key: str, values: Row | str) -> Row:
    if isinstance(values, str):
        return _row(key, None, values, dict.fromkeys(sidecar.FIELDS))
    image = values.get("image")
    data = image.get("bytes") if isinstance(image, dict) else image
    url = values.get("url")
    problem = None if data is not None or url else "no picture: neither bytes nor a URL are in the row"
    return _row(key, data, problem, {"url": url, **{name: _text(values.get(name)) for name in sidecar.FIELDS}})


def _text(value: object) -> str | None:
    return None if value is None or value == "" else str(value)


def _read_archive(shard: Shard) -> Iterator[Row]:
    name = shard.files[0]
    samples = archives.read_samples(
        Path(shard.root, name), PICTURES, MAX_ITEM_BYTES, shard.start, shard.stop, shard.offset, shard.keys
    )
    for sample in samples:
        fields = {"url": sample.fields.get("url"), **{field: sample.fields.get(field) for field in sidecar.FIELDS}}
        yield _row(f"{name}/{sample.key}", sample.data, sample.problem, fields)
