"""The upright size of a picture from its header, without decoding it."""

from __future__ import annotations

from typing import BinaryIO

from PIL import Image

from finecap.pictures import ANY_SIZE, ORIENTATION, SIDEWAYS, BadPicture, opened
from finecap.sources.rows import Bad, Size

# Where a JPEG says its size and orientation, but for what large colour profiles push behind it.
HEADER_BYTES = 2**18
# What a PNG's orientation stands in. It may lie behind the pixels, where Pillow finds it only by decoding them.
PNG_ORIENTATION = (b"eXIf", b"Raw profile type", b"XML:com.adobe.xmp")


def upright_size(data: bytes) -> Size:
    """Width and height of an encoded picture after its EXIF orientation, as `pictures.open_rgb` gives them.

    Raises:
        Bad: it is no picture.
    """
    try:
        with opened(data, ANY_SIZE) as image:
            width, height = image.size
            # Pillow has applied a TIFF's own orientation to its size already.
            if image.format != "TIFF" and _may_be_turned(image, data) and _orientation(image) in SIDEWAYS:
                return height, width
            return width, height
    except BadPicture as error:
        raise Bad(str(error)) from error


def _may_be_turned(image: Image.Image, data: bytes) -> bool:
    return image.format != "PNG" or any(mark in data for mark in PNG_ORIENTATION)


def _orientation(image: Image.Image) -> int | None:
    return image.getexif().get(ORIENTATION)


def upright_size_of(file: BinaryIO, most: int) -> Size:
    """As `upright_size`, of an open file, of which no more is read than needed.

    Args:
        most: a longer file is refused.

    Raises:
        Bad: it is no picture, or too long.
    """
    data = file.read(HEADER_BYTES)
    if data[:2] == b"\xff\xd8" and len(data) == HEADER_BYTES:
        try:
            return upright_size(data)
        except Bad:  # the header may go on
            pass
    data += file.read(most + 1 - len(data))
    if len(data) > most:
        raise Bad(f"too large: more than {most} bytes")
    return upright_size(data)
