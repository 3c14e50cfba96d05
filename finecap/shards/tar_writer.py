"""WebDataset archives of a published dataset, for training loops that stream tar files."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from finecap.files import committed
from finecap.pictures import ANY_SIZE, BadPicture, opened
from finecap.shards.plan import rows_at_once

# Of those formats whose extension is not Pillow's name of them. MPO is a JPEG with more pictures behind it.
EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "JPEG2000": "jp2"}


def export_webdataset(files: Iterable[Path], folder: Path) -> list[Path]:
    """Write one archive for each parquet file of records: `<number>.<jpg, png, ...>` with the picture as it is stored,
    and `<number>.json` with everything else. The same records give the same bytes.

    Args:
        files: parquet files with the columns of a FineCap record.
        folder: for the archives, named as the files.

    Returns:
        The archives.

    Raises:
        StopRun: the disk is full or cannot be written.
    """
    archives = []
    for path in files:
        archive = folder / f"{path.stem}.tar"
        with committed(archive) as aside:
            _write_archive(path, aside)
        archives.append(archive)
    return archives


def _write_archive(path: Path, archive: Path) -> None:
    number = 0
    with tarfile.open(archive, "w", format=tarfile.USTAR_FORMAT) as tar, pq.ParquetFile(path) as file:
        for batch in file.iter_batches(rows_at_once(file.metadata, file.schema_arrow.names)):
            for record in batch.to_pylist():
                # A record's id may hold dots and slashes, which end the key of a sample; it stands in the JSON.
                _write_sample(tar, f"{number:08d}", record)
                number += 1


def _write_sample(tar: tarfile.TarFile, key: str, record: dict[str, Any]) -> None:
    picture = record.pop("image")["bytes"]
    words = json.dumps(record, ensure_ascii=False, sort_keys=True).encode()
    for name, content in ((f"{key}.{_extension(picture)}", picture), (f"{key}.json", words)):
        member = tarfile.TarInfo(name)
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))


def _extension(picture: bytes) -> str:
    try:
        with opened(picture, ANY_SIZE) as image:
            kind = image.format or "bin"
    except BadPicture:
        return "bin"
    return EXTENSIONS.get(kind, kind.lower())
