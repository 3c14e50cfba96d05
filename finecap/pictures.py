"""Decoding pictures that strangers made: to 8-bit RGB, upright, or an error that says what is wrong with them.

Of an animation or a document of several pages, the first one counts.
"""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Generator
from contextlib import ExitStack, contextmanager

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

# No others: Pillow hands EPS to Ghostscript, and some hold pictures of another size than their header says.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
ORIENTATION = 0x0112
# For pictures that have passed ingest, which refuses what is too large.
ANY_SIZE = 2**62


class BadPicture(ValueError):
    """Bytes that are no usable picture; the message is "kind: detail", fit for `reject`."""


def open_rgb(data: bytes, max_pixels: int) -> Image.Image:
    """Decode a picture.

    Args:
        data: encoded picture.
        max_pixels: a header that announces more is refused before anything is decoded.

    Returns:
        8-bit RGB, EXIF orientation applied, transparency laid over white, 16 bits scaled to 8; the same pixels as
        `modeling_finevit.image_inputs.to_rgb`, which models see.

    Raises:
        BadPicture: no picture, cut off, corrupt or too large.
    """
    with opened(data, max_pixels) as image:
        return upright_rgb(image)


@contextmanager
def opened(data: bytes, max_pixels: int) -> Generator[Image.Image]:
    """The picture with only its header read; whatever goes wrong inside the block is the picture's fault.

    A picture that is cut off is an error inside, even if some library of the process allowed it for everybody
    (`ImageFile.LOAD_TRUNCATED_IMAGES`).

    Raises:
        BadPicture: see `open_rgb`.
    """
    try:
        with _strict_pillow(), Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > max_pixels:
                raise BadPicture(f"pixel bomb: {image.width}x{image.height} pixels > {max_pixels}")
            yield image
    except BadPicture:
        raise
    except UnidentifiedImageError:
        raise BadPicture(f"not a picture: {_beginning(data)}") from None
    except Exception as error:  # on corrupt bytes Pillow's decoders raise nearly everything
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise BadPicture(f"{'truncated' if 'truncated' in text.lower() else 'corrupt'}: {text}"[:300]) from error


_lock = threading.Lock()
_inside = 0
_before = ExitStack()


@contextmanager
def _strict_pillow() -> Generator[None]:
    """Pillow's switches are those of the process: set while any thread is inside, put back by the last."""
    global _inside
    with _lock:
        _inside += 1
        if _inside == 1:
            _before.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")  # of odd metadata: no matter
            _before.callback(setattr, ImageFile, "LOAD_TRUNCATED_IMAGES", ImageFile.LOAD_TRUNCATED_IMAGES)
            _before.callback(setattr, Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
            ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = False, None
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                _before.close()


def upright_rgb(image: Image.Image) -> Image.Image:
    """An opened picture as 8-bit RGB, EXIF orientation applied, transparency laid over white."""
    image.load()
    return _to_rgb(ImageOps.exif_transpose(image))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _to_8_bit_grey(image)
    elif image.mode in ("La", "RGBa"):
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
    if image.mode != "RGB":
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert("RGB")
    return image


def _to_8_bit_grey(image: Image.Image) -> Image.Image:
    """Pillow clips high bit depths to 255, which turns a 16-bit scan white; scale them instead."""
    values = np.asarray(image).astype(np.float64)
    deep = image.mode.startswith("I;16") or (image.mode == "I" and values.max() > 255)
    return Image.fromarray((values / (257 if deep else 1)).round().clip(0, 255).astype(np.uint8))


def thumbnail_grey(image: Image.Image, side: int) -> Image.Image:
    """An opened picture in grey, no smaller than `side` where it is larger; every byte of it is decoded.

    A JPEG is scaled down while it is decoded (to the next eighth), which leaves out most of the work and none of the
    checks. EXIF orientation is not applied.
    """
    if image.format in ("JPEG", "MPO") and image.mode == "RGB":
        image.draft("L", (side, side))
    image.load()
    return image if image.mode == "L" else _to_rgb(image).convert("L")


def shrunk_rgb(image: Image.Image, short_side: int) -> Image.Image:
    """An opened picture as RGB with at most this short side, for measuring; a JPEG is scaled down while it is decoded.
    EXIF orientation is not applied.
    """
    width, height = image.size
    if image.format in ("JPEG", "MPO") and image.mode == "RGB":
        image.draft("RGB", (short_side, short_side))
    image.load()
    image, scale = _to_rgb(image), short_side / min(width, height)
    if scale >= 1:
        return image
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)


def scaled_jpeg(image: Image.Image, max_side: int, quality: int = 90) -> bytes:
    """A picture as JPEG for a captioner, its longer side at most `max_side` pixels; never enlarged."""
    image = image.convert("RGB")
    image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS, reducing_gap=3.0)
    return encoded(image, "JPEG", quality=quality)


def encoded(image: Image.Image, file_format: str, **options: object) -> bytes:
    """A picture as the bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def _beginning(data: bytes) -> str:
    return f"{len(data)} bytes that begin with {data[:16]!r}" if data else "0 bytes"
