"""Pass 1: decode check, hashes, sizes, EXIF orientation; what cannot be used is rejected with its reason.

The bytes of a picture are kept as they came, with two exceptions: one that EXIF says is rotated is encoded again
upright (JPEG at quality 95, anything else as PNG), and EXIF that tells where a picture was taken or whose camera it
was (GPS, owner, serial numbers) is taken out, from a JPEG without touching its pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Literal

import numpy as np
import pyarrow as pa
from PIL import Image
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from finecap.engine.contract import Context, Row
from finecap.engine.running.concurrency import event_loop, map_bounded
from finecap.pictures import JPEGS, ORIENTATION, BadPicture, encoded, opened, thumbnail_grey, upright_rgb

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
SPLITS = ("train", "validation", "test")
HASH_SIDE = 16
HASHED_SIDE = 4 * HASH_SIDE  # what imagehash shrinks a picture to
# EXIF: where, whose and which camera.
EXIF_IFD, GPS, OWNER_AND_SERIALS = 0x8769, 0x8825, (0xA430, 0xA431, 0xA435)
START_OF_SCAN, APP1 = 0xDA, 0xE1
JPEG_QUALITY = 95


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Options:
    """What is taken in.

    Attributes:
        source, license, split: of rows whose input does not say.
        max_pixels: larger pictures are refused before they are decoded, and smaller ones that would have to be decoded
            for more than 20 times so many pixels (progressive JPEGs with hundreds of scans). Decoding takes up to 9
            bytes a pixel: 0.5 GB for 100 million pixels of a photograph, 0.9 GB with transparency or 16 bits.
        max_bytes: larger files are refused.
        allow_urls: fetch pictures that the input only links to; never from private addresses.
        in_flight: links that are fetched at once; so many pictures are held in memory.
    """

    source: str = Field(min_length=1)  # a record must name both
    license: str = Field(min_length=1)
    split: Literal["train", "validation", "test"] = "train"
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
    exif = image.getexif()
    if exif.get(ORIENTATION) in range(2, 9):
        context.counters["turned upright"] += 1
        return _encoded_again(image)
    private = _is_private(image, exif)
    if private:
        context.counters["place or owner taken out of EXIF"] += 1
        if image.format not in JPEGS:
            return _encoded_again(image)
    (width, height), file_format = image.size, image.format  # before the draft changes the size
    phash = perceptual_hash(thumbnail_grey(image, HASHED_SIDE))
    data = _without_app1(data) if private else data
    return {"image": data, "width": width, "height": height, "format": file_format, "phash": phash}


def _encoded_again(image: Image.Image) -> Row:
    """Upright, as RGB, without EXIF; the colour profile stays if it is one for RGB."""
    file_format = "JPEG" if image.format in JPEGS else "PNG"
    profile = image.info.get("icc_profile") if image.mode == "RGB" else None
    image = upright_rgb(image)
    data = encoded(image, file_format, icc_profile=profile, quality=JPEG_QUALITY)
    facts = {"image": data, "width": image.width, "height": image.height, "format": file_format}
    return {**facts, "phash": perceptual_hash(image.convert("L"))}


def perceptual_hash(grey: Image.Image) -> bytes:
    """`imagehash.phash` with 16 x 16 bits of a grey picture, as 32 bytes; first shrunk quickly to no less than twice
    the size that is hashed, which turns a few bits at most.
    """
    import imagehash

    small = grey.resize((HASHED_SIDE, HASHED_SIDE), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return np.packbits(imagehash.phash(small, hash_size=HASH_SIDE).hash).tobytes()


def _is_private(image: Image.Image, exif: Image.Exif) -> bool:
    if not exif and "xmp" not in image.info:
        return False
    details = exif.get_ifd(EXIF_IFD)
    xmp = image.info.get("xmp", b"")
    return bool(exif.get_ifd(GPS)) or any(tag in details for tag in OWNER_AND_SERIALS) or b"GPS" in xmp


def _without_app1(data: bytes) -> bytes:
    """A JPEG file without its EXIF and XMP segments; the compressed picture is not touched."""
    kept, at = [data[:2]], 2
    while data[at] == 0xFF and data[at + 1] != START_OF_SCAN:
        if data[at + 1] == 0xFF:  # a fill byte
            at += 1
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at + 1] != APP1:
            kept.append(data[at:end])
        at = end
    return b"".join([*kept, data[at:]])
