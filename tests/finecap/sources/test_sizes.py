"""The size from the header is the size of the decoded picture, in every format and orientation."""

import io

import pytest
from PIL import Image

from finecap.pictures import FORMATS, encoded, open_rgb
from finecap.sources.rows import Bad
from finecap.sources.sizes import HEADER_BYTES, upright_size, upright_size_of

ORIENTATION = 0x0112
SIZE = (40, 24)


def turned(file_format, orientation):
    exif = Image.Exif()
    if orientation:
        exif[ORIENTATION] = orientation
    return encoded(Image.effect_noise(SIZE, 80).convert("RGB"), file_format, exif=exif)


@pytest.mark.parametrize("file_format", [*FORMATS, "MPO"])
def test_it_is_the_size_of_the_decoded_picture(file_format):
    sizes = []
    for orientation in (None, *range(1, 9), 99):
        data = turned(file_format, orientation)
        sizes.append(upright_size(data))
        assert sizes[-1] == open_rgb(data, 10**6).size, orientation
    if file_format in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF"):
        assert sizes.count(SIZE[::-1]) == 4  # or nothing was turned at all


def test_orientation_behind_the_pixels_of_a_png_counts():
    data = turned("PNG", 6)
    at = data.index(b"eXIf") - 4
    chunk = data[at : at + 12 + int.from_bytes(data[at : at + 4], "big")]
    end = len(data) - 12
    moved = data[:at] + data[at + len(chunk) : end] + chunk + data[end:]
    assert upright_size(moved) == open_rgb(moved, 10**6).size == SIZE[::-1]


def test_a_long_jpeg_is_read_no_further_than_its_header():
    data = turned("JPEG", 6) + bytes(10 * HEADER_BYTES)
    file = io.BytesIO(data)
    assert upright_size_of(file, len(data)) == SIZE[::-1]
    assert file.tell() == HEADER_BYTES


def test_a_header_behind_a_large_profile_is_found():
    image = Image.effect_noise(SIZE, 80).convert("RGB")
    data = encoded(image, "JPEG", icc_profile=bytes(2 * HEADER_BYTES))
    assert upright_size_of(io.BytesIO(data), len(data)) == SIZE


def test_what_is_none_or_too_long_is_refused():
    with pytest.raises(Bad, match="not a picture"):
        upright_size(b"hello")
    with pytest.raises(Bad, match="too large"):
        upright_size_of(io.BytesIO(bytes(100)), 99)
