"""Drawing text with exact ink boxes, and encoding pictures."""

from __future__ import annotations

import functools
import io
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Box = tuple[int, int, int, int]

# The faces that matplotlib ships: DejaVu, under a free licence derived from Bitstream Vera.
FACES = {
    "sans": "DejaVuSans.ttf",
    "sans-bold": "DejaVuSans-Bold.ttf",
    "sans-oblique": "DejaVuSans-Oblique.ttf",
    "serif": "DejaVuSerif.ttf",
    "serif-bold": "DejaVuSerif-Bold.ttf",
    "serif-italic": "DejaVuSerif-Italic.ttf",
    "mono": "DejaVuSansMono.ttf",
    "mono-bold": "DejaVuSansMono-Bold.ttf",
}


def package_file(package: str, inside: str) -> Path:
    """A file that an installed package ships, found without importing the package (some take seconds).

    Raises:
        ValueError: if the package is not installed.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"the corpus needs the package {package}; install finevit[corpus]")
    return Path(spec.submodule_search_locations[0]) / inside


@functools.cache
def load_font(face: str, size: int) -> ImageFont.FreeTypeFont:
    """One of `FACES` at a size in pixels per em, laid out without shaping so that all machines draw the same."""
    path = package_file("matplotlib", f"mpl-data/fonts/ttf/{FACES[face]}")
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)


@functools.lru_cache(maxsize=65536)
def _ink(face: str, size: int, text: str) -> Box | None:
    mask, (left, top) = load_font(face, size).getmask2(text, mode="L", anchor="ls")
    box = mask.getbbox()
    return None if box is None else (left + box[0], top + box[1], left + box[2], top + box[3])


def ink_box(face: str, size: int, text: str, x: int, baseline: int) -> Box:
    """Box of the pixels that `draw_text` with the same arguments changes: exact, not a font metric."""
    box = _ink(face, size, text)
    if box is None:
        raise ValueError(f"{text!r} draws no ink in {face} at {size} px, so it has no box")
    return (box[0] + x, box[1] + baseline, box[2] + x, box[3] + baseline)


def text_width(face: str, size: int, text: str) -> int:
    """Advance width in whole pixels."""
    return round(load_font(face, size).getlength(text))


def draw_text(
    draw: ImageDraw.ImageDraw, face: str, size: int, text: str, x: int, baseline: int, fill: tuple[int, int, int]
) -> Box:
    """Draw `text` with its origin at (x, baseline) and return its ink box."""
    draw.text((x, baseline), text, font=load_font(face, size), fill=fill, anchor="ls")
    return ink_box(face, size, text, x, baseline)


def union(boxes: list[Box]) -> Box:
    """The smallest box around all boxes."""
    return (
        min(box[0] for box in boxes),
        min(box[1] for box in boxes),
        max(box[2] for box in boxes),
        max(box[3] for box in boxes),
    )


def encode_png(image: Image.Image) -> bytes:
    """PNG bytes; low compression, since small pictures are read far more often than they are stored."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def encode_jpeg(image: Image.Image, quality: int) -> bytes:
    """JPEG bytes without chroma subsampling, which would smear coloured text."""
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()


def encode_picture(image: Image.Image, quality: int) -> bytes:
    """JPEG bytes of this quality; PNG if it is 0."""
    return encode_jpeg(image, quality) if quality else encode_png(image)


@functools.lru_cache(maxsize=16384)
def ink_outline(face: str, size: int, text: str) -> np.ndarray:
    """Corners of the topmost and lowest ink pixel of each column, relative to the origin on the baseline; (n, 2)
    float.
    """
    mask, (left, top) = load_font(face, size).getmask2(text, mode="L", anchor="ls")
    ink = np.asarray(mask, dtype=np.uint8).reshape(mask.size[1], mask.size[0]) > 127
    columns = np.flatnonzero(ink.any(axis=0))
    first = ink.argmax(axis=0)[columns]
    last = ink.shape[0] - ink[::-1].argmax(axis=0)[columns]
    corners = [
        (x, y) for column, a, b in zip(columns, first, last, strict=True) for x in (column, column + 1) for y in (a, b)
    ]
    return np.array(corners, dtype=float) + np.array([left, top])
