"""Decoding untrusted pictures: small files that would cost much are refused, and memory has a known limit."""

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageDraw

from finecap import pictures
from finecap.pictures import BadPicture, count_scans, encoded, open_reduced, open_rgb, opened
from modeling_finevit import FineViTImageProcessor
from tests.finecap.engine.passes.test_ingest import photograph
from tests.support.hostile_pictures import many_scans

ROOMY, TIGHT = 10**8, 600 * 400  # the photograph has exactly 600 x 400


def test_as_many_pixels_pass_as_the_image_processor_takes():
    assert FineViTImageProcessor.max_image_pixels == pictures.MAX_PIXELS


def test_a_jpeg_that_would_be_decoded_hundreds_of_times_is_refused():
    data = many_scans(photograph(), 500)
    with pytest.raises(BadPicture, match=r"^scan bomb: 510 scans of 240000 pixels, 20 are allowed"):
        open_rgb(data, TIGHT)
    few = many_scans(photograph().resize((60, 40)), 500)
    assert open_rgb(few, TIGHT).size == (60, 40)  # a hundred times smaller, so it may have a hundred times as many


@pytest.mark.parametrize(("mode", "scans"), [("RGB", 10), ("L", 6), ("CMYK", 18)])
def test_what_encoders_make_passes_at_the_largest_size(mode, scans):
    data = encoded(photograph().convert(mode), "JPEG", progressive=True)
    assert count_scans(data) == scans
    assert open_rgb(data, TIGHT).size == (600, 400)


def test_scans_before_and_behind_the_picture_do_not_count():
    thumbnail = many_scans(photograph().resize((16, 16)), 60)
    exif = b"Exif\0\0" + thumbnail
    data = encoded(photograph(), "JPEG", exif=exif) + 100 * b"\xff\xda"
    assert data.count(b"\xff\xda") > 160
    assert count_scans(data) == 1
    assert open_rgb(data, TIGHT).size == (600, 400)


def test_too_little_memory_is_no_fault_of_a_picture(monkeypatch):
    def full(*_, **__):
        raise MemoryError

    data = encoded(photograph(), "PNG")
    monkeypatch.setattr(pictures.ImageOps, "exif_transpose", full)
    with pytest.raises(MemoryError):
        open_rgb(data, ROOMY)


# Not `getrusage`, whose figure a process inherits from the one that started it.
MEASURE = """
import pathlib, sys
from finecap.pictures import open_rgb
def most():
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
data, before = pathlib.Path(sys.argv[1]).read_bytes(), most()
picture = open_rgb(data, 10**8)
print((most() - before) / (picture.width * picture.height))
"""


@pytest.mark.parametrize(("mode", "color"), [("I;16", 9), ("RGBA", (9, 9, 9, 9))])
def test_a_picture_takes_at_most_nine_bytes_a_pixel(mode, color, tmp_path):
    path = tmp_path / "picture.png"
    Image.new(mode, (4000, 4000), color).save(path, compress_level=1)
    done = subprocess.run([sys.executable, "-c", MEASURE, path], capture_output=True, text=True, check=True)
    assert 3 < float(done.stdout) < 11  # and strips; 16 and 26 where the whole was converted at once


@pytest.mark.parametrize("mode", ["I;16", "RGBA", "LA", "P", "1", "CMYK", "F", "I"])
def test_strips_make_the_same_pixels_as_the_whole(mode, monkeypatch):
    if mode in ("I;16", "I", "F"):
        values = np.arange(50 * 30).reshape(30, 50) * (40 if mode != "F" else 0.2)
        image = Image.fromarray(values.astype({"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]))
    else:
        image = photograph().resize((50, 30)).convert(mode)
        if mode in ("RGBA", "LA"):
            image.putalpha(Image.linear_gradient("L").resize((50, 30)))
    buffer = io.BytesIO()
    image.save(buffer, "TIFF")
    with opened(buffer.getvalue(), ROOMY) as whole:
        assert whole.mode == mode
        expected = pictures.upright_rgb(whole)
    monkeypatch.setattr(pictures, "STRIP_PIXELS", 1)
    assert open_rgb(buffer.getvalue(), ROOMY).tobytes() == expected.tobytes()


def decibels(one, other):
    """Peak signal to noise of two pictures of one size."""
    return 10 * np.log10(255**2 / np.mean((np.asarray(one, np.float64) - np.asarray(other, np.float64)) ** 2))


def page():
    """Black strokes of one pixel and writing on white: what suffers most from another way of reducing."""
    image = Image.new("RGB", (1344, 1008), "white")
    draw = ImageDraw.Draw(image)
    for line in range(40):
        draw.text((20, 25 * line), "The quick brown fox jumps over the lazy dog. 0123456789 " * 4, "black")
    return image


LARGE = {"photograph": lambda: photograph().resize((1800, 1200), Image.Resampling.BICUBIC), "page": page}


@pytest.mark.parametrize(("kind", "least"), [("photograph", 45), ("page", 30)])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_jpeg_that_is_reduced_much_is_nearly_what_decoding_all_of_it_gives(kind, least, orientation, monkeypatch):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(LARGE[kind](), "JPEG", quality=90, exif=exif)
    whole = open_rgb(data, ROOMY)
    target = (whole.width // 3, whole.height // 3)
    loaded = []
    monkeypatch.setattr(Image.Image, "resize", _noting(Image.Image.resize, loaded))
    found = open_reduced(data, ROOMY, whole.size, target)
    monkeypatch.undo()
    assert sorted(loaded[0]) == [side // 2 for side in sorted(whole.size)]
    assert found.size == target
    wanted = whole.resize(target, Image.Resampling.BICUBIC)
    assert decibels(found, wanted) >= least
    assert decibels(found.rotate(180), wanted) < 25


def _noting(resize, sizes):
    def noted(image, *args, **kwargs):
        image.load()
        sizes.append(image.size)
        return resize(image, *args, **kwargs)

    return noted


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_picture_that_is_reduced_little_comes_as_it_is(kind):
    data = encoded(photograph(), kind)
    target = (28, 28) if kind == "PNG" else (224, 140)
    assert open_reduced(data, ROOMY, (600, 400), target).tobytes() == open_rgb(data, ROOMY).tobytes()


@pytest.mark.parametrize("target", [(28, 28), (560, 364)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_picture_of_another_size_than_the_data_says_is_bad(kind, target):
    data = encoded(photograph(), kind)
    with pytest.raises(BadPicture, match="another size: 600x400 upright, and not 601x400 as the data says"):
        open_reduced(data, ROOMY, (601, 400), target)


def test_a_large_jpeg_that_is_cut_off_is_bad_at_any_scale():
    data = encoded(photograph(), "JPEG")
    with pytest.raises(BadPicture, match=r"^truncated"):
        open_reduced(data[: len(data) // 2], ROOMY, (600, 400), (56, 56))
