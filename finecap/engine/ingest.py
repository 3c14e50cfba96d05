"""Pass 1: decode check, hashes, sizes, EXIF orientation; what cannot be used is rejected with its reason."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyarrow as pa
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from finecap.engine.passes import Context, Row

COLUMNS = pa.schema(
    [
        ("id", pa.string()),
        ("image", pa.binary()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("sha256", pa.string()),
        ("phash", pa.binary(32)),
        ("format", pa.string()),
        ("source", pa.string()),
        ("license", pa.string()),
        ("split", pa.string()),
    ]
)


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Options:
    """Attributes:
    source, license, split: of rows whose input does not say.
    max_pixels: larger pictures are refused before they are decoded.
    max_bytes: larger files are refused before they are read.
    allow_urls: fetch pictures that the input only links to; never from private addresses.
    """

    source: str
    license: str
    split: str = "train"
    max_pixels: int = 100_000_000
    max_bytes: int = 50_000_000
    allow_urls: bool = False


def run(rows: Iterator[Row], options: Options, context: Context) -> Iterable[Row]:
    raise NotImplementedError
