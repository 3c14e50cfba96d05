"""Decoding untrusted pictures: to 8-bit RGB, upright, or an error that says what is wrong with them.

The first picture of an animation, or page of a document, counts.
"""

from __future__ import annotations

import io
import re
import threading
import warnings
from collections.abc import Generator
from contextlib import ExitStack, contextmanager

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

# No others: Pillow hands EPS to Ghostscript, and some hold pictures of another size than their header says.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
ORIENTATION = 0x0112
SIDEWAYS = (5, 6, 7, 8)
JPEGS = ("JPEG", "MPO")
SCAN, END_OF_IMAGE = b"\xff\xda", b"\xd9"
# Marks that begin a segment; not the stuffed zeros, restarts and fillers between compressed bytes.
MARKER = re.compile(rb"\xff[\x02-\xcf\xd8-\xfe]")
# More pixels are refused by FineViT's image processor unless it is told otherwise.
MAX_PIXELS = 178_956_970
# For pictures that have passed ingest, which refuses what is too large.
ANY_SIZE = 2**62
# Scans that the largest picture may have, a smaller one more in proportion. A progressive JPEG is decoded once for
# each of them; usual are 10, and 18 in CMYK.
MOST_SCANS = 20
# What decoding a JPEG at a smaller scale must leave to the resampling that follows: with less, thin strokes differ.
LEFT_TO_RESIZE = 1.5
# Pixels of a strip, at least a row: pictures are brought to RGB strip by strip.
STRIP_PIXELS = 2**20


class BadPicture(ValueError):
    """Bytes that are no usable picture; the message is "kind: detail", fit for `reject`."""


def open_rgb(data: bytes, max_pixels: int) -> Image.Image:
    """Decode a picture.

    Args:
        data: encoded picture.
        max_pixels: a header that announces more is refused before anything is decoded.

    Returns:
        8-bit RGB, EXIF orientation applied, transparency laid over white, 16 bits scaled to 8; the same pixels as
        `modeling_finevit.image_inputs.to_rgb`, which models see. That package imports nothing of this one, so the two
        are written twice, and a test holds them equal.

    Raises:
        BadPicture: no picture, cut off, corrupt, too large or with too many scans.
        MemoryError: there is not enough for it now.
    """
    with opened(data, max_pixels) as image:
        return upright_rgb(image)


def open_reduced(data: bytes, max_pixels: int, size: tuple[int, int], target: tuple[int, int]) -> Image.Image:
    """As `open_rgb`, for a model that sees the picture at another size.

    A JPEG that is reduced to a third or less is scaled down while it is decoded, which costs a fraction of the time,
    and then brought to `target`. Its pixels differ a little from those of a picture that is decoded whole (about 50 dB
    on photographs, 32 to 40 on pages of small print). Every other picture comes as `open_rgb` gives it.

    Args:
        size: width and height of the picture, upright.
        target: width and height at which it is seen.

    Raises:
        BadPicture, MemoryError: as `open_rgb`, or it has another size.
    """
    with opened(data, max_pixels) as image:
        turned = image.format in JPEGS and image.getexif().get(ORIENTATION) in SIDEWAYS
        scale = min(size[0] / target[0], size[1] / target[1]) / LEFT_TO_RESIZE
        if image.format in JPEGS and image.mode == "RGB" and scale >= 2 and _turned(image.size, turned) == size:
            drafted = image.draft("RGB", (int(image.width / scale), int(image.height / scale)))
            box = drafted[1] if drafted else None
            return ImageOps.exif_transpose(image.resize(_turned(target, turned), Image.Resampling.BICUBIC, box))
        rgb = upright_rgb(image)
    if rgb.size != size:
        raise BadPicture(
            f"another size: {rgb.width}x{rgb.height} upright, and not {size[0]}x{size[1]} as the data says"
        )
    return rgb


def _turned(size: tuple[int, int], turned: bool) -> tuple[int, int]:
    return size[::-1] if turned else size


@contextmanager
def opened(data: bytes, max_pixels: int) -> Generator[Image.Image]:
    """The picture with only its header read; whatever goes wrong inside the block is the picture's fault.

    A picture that is cut off is an error inside, even if some library of the process allowed it for everybody
    (`ImageFile.LOAD_TRUNCATED_IMAGES`).

    Raises:
        BadPicture, MemoryError: see `open_rgb`.
    """
    try:
        with _strict_pillow(), Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > max_pixels:
                raise BadPicture(f"pixel bomb: {image.width}x{image.height} pixels > {max_pixels}")
            if image.format in JPEGS:
                _check_scans(data, image.width * image.height, max_pixels)
            yield image
    except (BadPicture, MemoryError):
        raise
    except UnidentifiedImageError:
        raise BadPicture(f"not a picture: {_beginning(data)}") from None
    except Exception as error:  # on corrupt bytes Pillow's decoders raise nearly everything
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise BadPicture(f"{'truncated' if 'truncated' in text.lower() else 'corrupt'}: {text}"[:300]) from error


def _check_scans(data: bytes, pixels: int, max_pixels: int) -> None:
    most = MOST_SCANS * max_pixels // max(pixels, 1)
    # Counting is quick, but whatever lies before or behind the picture may hold these two bytes as well.
    if data.count(SCAN) > most and (scans := count_scans(data)) > most:
        raise BadPicture(f"scan bomb: {scans} scans of {pixels} pixels, {most} are allowed for this size")


def count_scans(data: bytes) -> int:
    """Scans of a JPEG up to its end mark: the times that it is decoded."""
    at, scans = 2, 0
    while marker := MARKER.search(data, at):
        at, kind = marker.end(), marker[0][1:]
        if kind == END_OF_IMAGE:
            break
        scans += kind == SCAN[1:]
        at += int.from_bytes(data[at : at + 2], "big")  # skips the segment, which may hold marks of its own
    return scans


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
    """An opened picture as 8-bit RGB, EXIF orientation applied, transparency laid over white. It is decoded in place,
    so together they take at most 8 bytes a pixel (4 for RGB without an orientation).
    """
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    return _to_rgb(image)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    rgb, deep = Image.new("RGB", image.size), _is_deep(image)
    rows = max(1, STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(top + rows, image.height))
        rgb.paste(_strip_to_rgb(image.crop(box), deep), box)
    return rgb


def _is_deep(image: Image.Image) -> bool:
    """Has it 16 bits? Pillow's mode for 32 is what it opens some files of 8 and of 16 bits in."""
    return image.mode.startswith("I;16") or (image.mode == "I" and int(np.max(image.getextrema())) > 255)


def _strip_to_rgb(image: Image.Image, deep: bool) -> Image.Image:
    """Pillow clips high bit depths to 255, which turns a 16-bit scan white; they are scaled here."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.float64)
        image = Image.fromarray((values / (257 if deep else 1)).round().clip(0, 255).astype(np.uint8))
    elif image.mode in ("La", "RGBa"):
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def thumbnail_grey(image: Image.Image, side: int) -> Image.Image:
    """An opened picture in grey, no smaller than `side` where it is larger; every byte of it is decoded.

    A JPEG is scaled down while it is decoded (to the next eighth), which leaves out most of the work and none of the
    checks. EXIF orientation is not applied.
    """
    if image.format in JPEGS and image.mode == "RGB":
        image.draft("L", (side, side))
    image.load()
    return image if image.mode == "L" else _to_rgb(image).convert("L")


def shrunk_rgb(image: Image.Image, short_side: int) -> Image.Image:
    """An opened picture as RGB with at most this short side, for measuring; a JPEG is scaled down while it is decoded.
    EXIF orientation is not applied.
    """
    width, height = image.size
    if image.format in JPEGS and image.mode == "RGB":
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
