# Copyright 2026 The FineViT project. Licensed under the Apache License, Version 2.0.
"""From whatever a user calls an image to 8-bit RGB, and the size it is resized to; shared by both image processors."""

import base64
import binascii
import io
import math
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from transformers.image_utils import ChannelDimension, infer_channel_dimension_format

# What Pillow raises for a file that is no image, is cut off or is corrupt.
BROKEN_IMAGE_ERRORS = (OSError, SyntaxError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
# No others, for strangers send pictures to servers: Pillow hands EPS to Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
MAX_ASPECT_RATIO = 200  # Qwen2-VL's limit
FETCH_TIMEOUT_S = 30.0  # of each step of a fetch: connecting, and every read


def flatten_images(images: Any) -> Iterator[Any]:
    """Single images out of one image, a 4-D batch, or (nested, possibly empty) lists of those."""
    if isinstance(images, list | tuple):
        for item in images:
            yield from flatten_images(item)
    elif getattr(images, "ndim", 0) == 4:
        yield from images
    elif images is not None:
        yield images


def image_name(image: Any, index: int, count: int) -> str:
    """How errors call an image: its place in the batch and, where it has one, its file."""
    file = image if isinstance(image, str | Path) else getattr(image, "filename", None)
    return f"Image {index} of {count}" + (f" ({_shown(file)})" if file else "")


def is_url(source: str | Path) -> bool:
    """Whether a picture's source is a link to be fetched (`http://` or `https://`)."""
    return isinstance(source, str) and source.startswith(("http://", "https://"))


def decode_base64_image(source: str) -> bytes | None:
    """The bytes in a base64 data URI (`data:image/png;base64,...`) or a bare base64 string; None if it is neither."""
    if source.startswith("data:"):
        kind, _, source = source.partition(",")
        if not kind.endswith(";base64"):
            return None
    try:
        return base64.b64decode("".join(source.split()), validate=True)
    except (binascii.Error, ValueError):
        return None


def open_image(source: str | Path, name: str) -> Image.Image:
    """Opens a picture by its source; pixels are not decoded yet, and alpha, bit depth and EXIF are all still there.

    Args:
        source (`str` or `Path`): a file, an http(s) URL, a base64 data URI or a base64 string.
        name (`str`): what errors call it.

    Raises:
        ValueError: there is no such picture; the message begins with `name`.
    """
    try:
        if is_url(source):
            answer = httpx.get(str(source), timeout=FETCH_TIMEOUT_S, follow_redirects=True)
            content = answer.raise_for_status().content
        elif os.path.isfile(source):  # False for a string that is too long to be a path, where Path.is_file raises
            content = Path(source).read_bytes()
        else:
            content = decode_base64_image(str(source))
    except (OSError, httpx.HTTPError, httpx.InvalidURL) as error:
        raise ValueError(f"{name}: cannot be opened as an image: {error}") from error
    if content is None:
        raise ValueError(
            f"{name}: cannot be opened as an image: it is no file, http(s) URL, base64 data URI or base64 string."
        )
    image = open_image_bytes(content, name)
    image.filename = _shown(source)  # ty: ignore[missing-attribute]  (for the messages of later errors)
    return image


def open_image_bytes(content: bytes, name: str) -> Image.Image:
    """Opens an encoded picture of one of `FORMATS` without decoding its pixels; `ValueError` if it is none."""
    try:
        return Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError as error:  # whose own text is an address in memory
        raise ValueError(f"{name}: cannot be opened as an image: it is none of {', '.join(FORMATS)}") from error
    except BROKEN_IMAGE_ERRORS as error:
        raise ValueError(f"{name}: cannot be opened as an image: {error}") from error


def to_rgb(image: Any, name: str, max_image_pixels: int, input_data_format: Any = None) -> torch.Tensor:
    """Brings one image to RGB.

    Args:
        image: a path, URL, data URI or base64 string, a PIL image of any mode, or a numpy/torch array `(H, W)`,
            `(H, W, C)` or `(C, H, W)` with 1 to 4 channels: uint8, uint16, bool, or float in [0, 1] or [0, 255].
        name (`str`): what errors call it.
        max_image_pixels (`int`): more pixels than this are refused before they are decoded.
        input_data_format (`str`, *optional*): `"channels_first"` or `"channels_last"` for arrays; guessed if None.

    Returns:
        `torch.Tensor` of shape `(3, H, W)`, uint8, transparency laid over white, EXIF orientation applied.

    Raises:
        ValueError: the image cannot be read, is empty or is too large; the message begins with `name`.
    """
    if isinstance(image, str | Path):
        image = open_image(image, name)
    if isinstance(image, Image.Image):
        _check_pixels(image.height, image.width, name, max_image_pixels)
        return _pil_to_rgb(image, name)
    if isinstance(image, np.ndarray):
        image = torch.from_numpy(np.array(image))  # a copy: the caller's may be read-only, which PyTorch warns of
    if not isinstance(image, torch.Tensor):
        raise ValueError(f"{name}: expected a path, URL, PIL image, numpy array or torch tensor, got {type(image)}.")
    return _array_to_rgb(image, name, max_image_pixels, input_data_format)


def fit_size(
    height: int, width: int, unit: int, patch_size: int, min_pixels: int, max_pixels: int, name: str = "The image"
) -> tuple[int, int]:
    """Nearest size in multiples of `unit` within the pixel budget, aspect ratio kept as well as that allows.

    The arithmetic is Qwen2-VL's `smart_resize`, which silently distorts very thin images; they are refused here.

    Args:
        height, width (`int`): size in pixels.
        unit (`int`): patch size x merge size, 28 pixels.
        patch_size (`int`): a side that would be shorter than this after scaling is refused.
        min_pixels, max_pixels (`int`): budget for the area. `max_pixels` is never exceeded; where the two are so close
            that no size in multiples of `unit` lies between them, the result is smaller than `min_pixels`.

    Returns:
        `(height, width)` in pixels.

    Raises:
        ValueError: empty image, aspect ratio above 200, a side under one patch after scaling, or a budget of less than
            one unit.
    """
    if max_pixels < unit**2:
        raise ValueError(f"max_pixels={max_pixels} is less than one token's {unit}x{unit} pixels; raise it.")
    if height < 1 or width < 1:
        raise ValueError(f"{name} is empty ({height}x{width} pixels).")
    if max(height, width) / min(height, width) > MAX_ASPECT_RATIO:
        raise ValueError(
            f"{name} has an aspect ratio above {MAX_ASPECT_RATIO} ({height}x{width} pixels, height x width). Crop it."
        )
    area = height * width
    scale = math.sqrt(min(max(area, min_pixels), max_pixels) / area)
    if min(height, width) * scale < patch_size:
        raise ValueError(
            f"{name} is too thin: {height}x{width} pixels (height x width) come to {height * scale:.1f}x"
            f"{width * scale:.1f} within the pixel budget, less than one patch of {patch_size} pixels. Crop it, or "
            "raise the budget."
        )
    rows, columns = (max(unit, round(side / unit) * unit) for side in (height, width))
    if rows * columns < min_pixels:
        grow = math.sqrt(min_pixels / area)
        rows, columns = (math.ceil(side * grow / unit) * unit for side in (height, width))
    if rows * columns > max_pixels:
        shrink = math.sqrt(area / max_pixels) * (1 - 1e-9)  # or rounding shrinks 600² for 112² to 84²
        rows, columns = (max(unit, math.floor(side / shrink / unit) * unit) for side in (height, width))
        # a side lifted to one unit is paid for by the other
        longest = max_pixels // unit // unit * unit
        rows, columns = (rows, min(columns, longest)) if rows == unit else (min(rows, longest), columns)
    return rows, columns


def _shown(source: Any) -> str:
    """A source in an error message: a path or link, cut short; of inline bytes only that they are such."""
    text = str(source)
    return f"{text.split(',')[0][:40]},..." if text.startswith("data:") else text[:200]


def _check_pixels(height: int, width: int, name: str, max_image_pixels: int) -> None:
    if height < 1 or width < 1:
        raise ValueError(f"{name} is empty ({height}x{width} pixels).")
    if height * width > max_image_pixels:
        raise ValueError(
            f"{name} has {height}x{width} pixels, more than max_image_pixels={max_image_pixels}. Shrink it, or raise "
            "max_image_pixels if you trust its source."
        )


def _pil_to_rgb(image: Image.Image, name: str) -> torch.Tensor:
    try:
        image.load()
        image = ImageOps.exif_transpose(image)
    except BROKEN_IMAGE_ERRORS as error:
        raise ValueError(f"{name}: truncated or corrupt: {error}") from error
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _to_8_bit_grey(image)
    elif image.mode in ("La", "RGBa"):
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
    if image.mode != "RGB":
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert("RGB")
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _to_8_bit_grey(image: Image.Image) -> Image.Image:
    """Pillow clips high bit depths to 255, which turns a 16-bit scan white; scale them instead."""
    values = np.asarray(image).astype(np.float64)
    deep = image.mode.startswith("I;16") or (image.mode == "I" and values.max() > 255)
    return Image.fromarray((values / (257 if deep else 1)).round().clip(0, 255).astype(np.uint8))


def _array_to_rgb(image: torch.Tensor, name: str, max_image_pixels: int, input_data_format: Any) -> torch.Tensor:
    if image.ndim == 2:
        image, input_data_format = image[None], ChannelDimension.FIRST
    if image.ndim != 3:
        raise ValueError(f"{name}: an array must have 2 or 3 dimensions, got shape {tuple(image.shape)}.")
    if 0 in image.shape:
        raise ValueError(f"{name} is empty (shape {tuple(image.shape)}).")
    if input_data_format is None:
        try:
            input_data_format = infer_channel_dimension_format(image, num_channels=(1, 2, 3, 4))  # ty: ignore[invalid-argument-type]
        except ValueError as error:
            raise ValueError(f"{name}: no dimension of {tuple(image.shape)} has 1 to 4 channels.") from error
    if input_data_format == ChannelDimension.LAST:
        image = image.permute(2, 0, 1)
    _check_pixels(*image.shape[1:], name, max_image_pixels)
    image = _to_unit_range(image, name)
    if image.shape[0] in (2, 4):
        colour, alpha = image[:-1], image[-1:]
        image = colour * alpha + (1 - alpha)
    return (image * 255).round().to(torch.uint8).expand(3, -1, -1)


def _to_unit_range(image: torch.Tensor, name: str) -> torch.Tensor:
    if image.is_floating_point():
        if not image.isfinite().all() or image.min() < 0 or image.max() > 255:
            raise ValueError(f"{name}: float values must be finite and in [0, 1] or [0, 255].")
        if 1 < image.max() < 2:  # what interpolation makes of [0, 1]; taken as [0, 255] it would be black
            raise ValueError(
                f"{name}: float values up to {image.max():.4g} are neither [0, 1] nor [0, 255]: clip or scale them."
            )
        return image.float() / (255 if image.max() > 1 else 1)
    top = {torch.bool: 1, torch.uint8: 255, torch.uint16: 65535}.get(image.dtype)
    if top is None:
        if image.min() < 0 or image.max() > 255:
            raise ValueError(f"{name}: {image.dtype} values must be in [0, 255].")
        top = 255
    return image.float() / top
