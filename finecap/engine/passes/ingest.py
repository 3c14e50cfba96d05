"""Pass 1: decode check, hashes, sizes, EXIF orientation; what cannot be used is rejected with its reason.

The compressed pixels of a picture are kept as they came, and its metadata is taken out (`finecap.metadata`: place,
owner, camera, date, comments, thumbnails, whatever lies behind the picture). One that EXIF says is rotated is encoded
again upright (JPEG at quality 95, anything else as PNG), and formats that cannot be taken apart safely are encoded
again as PNG.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
import pyarrow as pa
from PIL import Image
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from finecap.engine.contract import Context, Row
from finecap.engine.running.concurrency import event_loop, map_bounded
from finecap.metadata import without_metadata
from finecap.pictures import JPEGS, ORIENTATION, BadPicture, encoded, opened, thumbnail_grey, upright_rgb
from finecap.shards.layout import SPLITS, Split

COLUMNS = pa.schema(
    [
        ("id", pa.string()),  # first 24 hex digits of sha256
        ("image", pa.binary()),  # encoded, upright
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("sha256", pa.string()),  # of the bytes as they came
        ("phash", pa.binary(32)),  # imagehash.phash(hash_size=16), row by row, first bit highest
        ("format", pa.string()),  # Pillow's name for `image`
        ("source", pa.string()),
        ("license", pa.string()),
        ("split", pa.string()),
    ]
)
HASH_SIDE = 16
HASHED_SIDE = 4 * HASH_SIDE  # what imagehash shrinks a picture to
JPEG_QUALITY = 95


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Options:
    """What is taken in.

    Attributes:
        source, license, split: of rows whose input does not say.
        max_pixels: larger pictures are refused before they are decoded. So are progressive JPEGs of which more than 20
            times `max_pixels` would be decoded, scan by scan. Decoding takes up to 9 bytes a pixel: 0.5 GB for 100
            million pixels of a photograph, 0.9 GB with transparency or 16 bits.
        max_bytes: larger files are refused.
        allow_urls: fetch pictures that the input only links to; never from private addresses.
        in_flight: links that are fetched at once, and pictures that are held in memory.
    """

    source: str = Field(min_length=1)  # a record must name both
    license: str = Field(min_length=1)
    split: Split = "train"
    max_pixels: int = 100_000_000
    max_bytes: int = 50_000_000
    allow_urls: bool = False
    in_flight: int = Field(default=16, ge=1)


def run(rows: Iterator[Row], options: Options, context: Context) -> Iterable[Row]:
    """Rows of `read_shard` in, one row or reject for each out, in order."""
    for row in _fetched(rows, options, context) if options.allow_urls else rows:
        try:
            yield {"key": row["key"], "reject": None, **_ingested(row, options, context)}
        except BadPicture as error:
            yield {"key": row["key"], "reject": str(error)}


def _fetched(rows: Iterator[Row], options: Options, context: Context) -> Iterator[Row]:
    """The rows with the pictures that they link to, a window at a time.

    Raises:
        StopRun: no link is answered any more.
    """
    from finecap.shards.fetch import FetchError
    from finecap.shards.links import Links

    links = context.load("links", Links)

    async def fetch(row: Row) -> Row:
        if row["bytes"] is not None or row.get("problem") or not row["url"]:
            return row
        try:
            return {**row, "bytes": await links.fetch(row["url"], options.max_bytes)}
        except FetchError as error:
            return {**row, "problem": str(error)}

    while window := list(islice(rows, options.in_flight)):
        yield from map_bounded(fetch, window, options.in_flight, event_loop(context))


def _ingested(row: Row, options: Options, context: Context) -> Row:
    """Raises BadPicture."""
    data = _bytes(row, options)
    split = row.get("split") or options.split
    if split not in SPLITS:
        raise BadPicture(f"unknown split: {split!r} is none of {', '.join(SPLITS)}")
    with opened(data, options.max_pixels) as image:
        facts = _facts(image, data, context)
    digest = hashlib.sha256(data).hexdigest()
    return {
        "id": digest[:24],
        "sha256": digest,
        "source": row.get("source") or options.source,
        "license": row.get("license") or options.license,
        "split": split,
        **facts,
    }


def _bytes(row: Row, options: Options) -> bytes:
    if row.get("problem"):
        raise BadPicture(row["problem"])
    if row["bytes"] is None:
        detail = "nothing to read" if not row["url"] else "fetching is off, see allow_urls"
        raise BadPicture(f"{'link' if row['url'] else 'no picture'}: {detail}")
    if len(row["bytes"]) > options.max_bytes:
        raise BadPicture(f"too large: {len(row['bytes'])} bytes > {options.max_bytes}")
    return row["bytes"]


def _facts(image: Image.Image, data: bytes, context: Context) -> Row:
    """What one decoding tells of a picture; any exception is the picture's fault."""
    if image.getexif().get(ORIENTATION) in range(2, 9):
        context.counters["turned upright"] += 1
        return _encoded_again(image)
    (width, height), file_format = image.size, image.format or ""  # before the draft changes the size
    phash = perceptual_hash(thumbnail_grey(image, HASHED_SIDE))
    bare = without_metadata(data, file_format)
    if bare is None:
        context.counters["encoded again as PNG"] += 1
        return _encoded_again(image)
    context.counters["metadata taken out"] += bare != data
    file_format = "JPEG" if file_format in JPEGS else file_format
    return {"image": bare, "width": width, "height": height, "format": file_format, "phash": phash}


def _encoded_again(image: Image.Image) -> Row:
    """Upright, as RGB, without metadata; the colour profile stays if it is one for RGB."""
    file_format = "JPEG" if image.format in JPEGS else "PNG"
    profile = image.info.get("icc_profile") if image.mode == "RGB" else None
    image = upright_rgb(image)
    image.info.clear()  # Pillow writes comments from it
    data = encoded(image, file_format, icc_profile=profile, quality=JPEG_QUALITY)
    data = without_metadata(data, file_format) or data  # the profile has texts as well
    facts = {"image": data, "width": image.width, "height": image.height, "format": file_format}
    return {**facts, "phash": perceptual_hash(image.convert("L"))}


def perceptual_hash(grey: Image.Image) -> bytes:
    """`imagehash.phash` with 16 x 16 bits of a grey picture, as 32 bytes; first shrunk quickly to no less than twice
    the size that is hashed, which turns a few bits at most.
    """
    import imagehash

    small = grey.resize((HASHED_SIDE, HASHED_SIDE), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return np.packbits(imagehash.phash(small, hash_size=HASH_SIDE).hash).tobytes()
