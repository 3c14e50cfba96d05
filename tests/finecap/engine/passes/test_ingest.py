"""Ingest: every item ends as a row or as a reject with its reason, whatever its bytes are."""

import asyncio
import functools
import hashlib
import io
import threading
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import imagehash
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageFile
from pydantic import ValidationError

from finecap.engine.contract import Context
from finecap.engine.passes import ingest
from finecap.engine.passes.ingest import Options, perceptual_hash
from finecap.engine.recipe import recipe_from
from finecap.errors import StopRun
from finecap.pictures import BadPicture, encoded, open_rgb, opened, scaled_jpeg
from finecap.shards import links
from modeling_finevit.image_inputs import to_rgb
from tests.support.photographs import PHOTOGRAPHS, photograph

OPTIONS = Options(source="here", license="cc0", max_pixels=4_000_000, max_bytes=3_000_000)


def ingested(*items: dict, options: Options = OPTIONS) -> tuple[list[dict], Context]:
    recipe = recipe_from({"ingest": {"source": "s", "license": "l"}})
    context = Context("shard", recipe.settings, None, None, Path(), {"event loop": asyncio.new_event_loop()})
    rows = [
        {"key": str(number), "bytes": None, "url": None, "problem": None, **item} for number, item in enumerate(items)
    ]
    found = list(ingest.run(iter(rows), options, context))
    context.models["event loop"].close()
    assert [row["key"] for row in found] == [row["key"] for row in rows]
    return found, context


def one(data: bytes | None, **item: object) -> dict:
    return ingested({"bytes": data, **item})[0][0]


def exif_with(**tags: object) -> Image.Exif:
    exif = Image.Exif()
    if "orientation" in tags:
        exif[0x0112] = tags["orientation"]
    if "gps" in tags:
        exif.get_ifd(0x8825).update({1: "N", 2: (51.0, 30.0, 0.0)})
    if "serial" in tags:
        exif.get_ifd(0x8769)[0xA431] = tags["serial"]
    exif[0x010F] = "a camera"
    return exif


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "GIF", "AVIF"])
def test_a_sound_picture_keeps_its_bytes(file_format):
    data = encoded(photograph(), file_format)
    row = one(data, source="zoo", split="test")
    assert row["reject"] is None
    assert (row["image"], row["format"], row["width"], row["height"]) == (data, file_format, 600, 400)
    assert row["sha256"] == hashlib.sha256(data).hexdigest()
    assert row["id"] == row["sha256"][:24]
    assert (row["source"], row["license"], row["split"]) == ("zoo", "cc0", "test")
    assert len(row["phash"]) == 32


@pytest.mark.parametrize("file_format", ["BMP", "TIFF", "JPEG2000", "PPM"])
def test_formats_that_cannot_be_taken_apart_become_png_of_the_same_pixels(file_format):
    data = encoded(photograph(), file_format)
    (row,), context = ingested({"bytes": data})
    assert (row["format"], row["width"], row["height"]) == ("PNG", 600, 400)
    assert np.array_equal(np.asarray(open_rgb(row["image"], 10**7)), np.asarray(open_rgb(data, 10**7)))
    assert row["sha256"] == hashlib.sha256(data).hexdigest()
    assert context.counters["encoded again as PNG"] == 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_a_picture_that_exif_turns_is_stored_upright(orientation, file_format):
    data = encoded(photograph("rocket.jpg"), file_format, exif=exif_with(orientation=orientation))
    row = one(data)
    stored = Image.open(io.BytesIO(row["image"]))
    assert stored.getexif().get(0x0112, 1) == 1
    assert stored.size == (row["width"], row["height"])
    upright = np.asarray(open_rgb(data, 10**7), dtype=float)
    assert np.abs(upright - np.asarray(stored.convert("RGB"))).mean() < 3
    if orientation > 1:  # a negative control: the pixels as they lie are another picture
        raw = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=float)
        assert raw.shape != upright.shape or np.abs(upright - raw).mean() > 10


def bomb() -> bytes:
    """A PNG of 200 bytes whose header announces 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = (60_000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


JPEG = encoded(photograph(), "JPEG")


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        ({"bytes": b""}, "not a picture: 0 bytes"),
        ({"bytes": b"hello"}, "not a picture: 5 bytes that begin with b'hello'"),
        ({"bytes": JPEG[:20]}, "not a picture: "),
        ({"bytes": JPEG[: len(JPEG) // 2]}, "truncated: "),
        ({"bytes": encoded(photograph(), "PNG")[:-100_000]}, "truncated: "),
        ({"bytes": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"}, "not a picture: "),
        ({"bytes": bomb()}, "pixel bomb: "),
        ({"bytes": encoded(Image.new("1", (2001, 2000)), "PNG")}, "pixel bomb: 2001x2000 pixels > 4000000"),
        ({"bytes": JPEG + bytes(3_000_000)}, "too large: "),
        ({"url": "https://example.org/a.jpg"}, "link: fetching is off"),
        ({}, "no picture: "),
        ({"problem": "unreadable: no such file"}, "unreadable: no such file"),
        ({"bytes": JPEG, "split": "holiday"}, "unknown split: 'holiday' is none of train"),
    ],
)
def test_what_cannot_be_used_is_rejected_with_its_reason(item, reason):
    good = {"bytes": JPEG}
    rows, _ = ingested(good, item, good)
    assert [row["reject"] is None for row in rows] == [True, False, True]
    assert rows[1]["reject"].startswith(reason)


def test_a_picture_that_is_cut_off_is_refused_even_where_some_library_allowed_it(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    assert one(JPEG[: len(JPEG) // 2])["reject"].startswith("truncated: ")
    with pytest.raises(BadPicture, match="truncated"):
        open_rgb(JPEG[: len(JPEG) // 2], 10**7)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True  # their setting is theirs


def test_pictures_may_be_opened_in_several_threads_at_once(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    limit = Image.MAX_IMAGE_PIXELS
    first, second = opened(JPEG, 10**7), opened(JPEG[: len(JPEG) // 2], 10**7)
    first.__enter__()
    image = second.__enter__()
    first.__exit__(None, None, None)  # the other one, still open, is as strict as before
    with pytest.raises(OSError, match="truncated"):
        image.load()
    second.__exit__(None, None, None)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True
    assert limit == Image.MAX_IMAGE_PIXELS


SEEDS = {
    name: encoded(photograph().resize((96, 64)), name, **options)
    for name, options in {
        "JPEG": {"exif": exif_with(orientation=6, gps=True)},
        "PNG": {"exif": exif_with(gps=True)},
        "WEBP": {"exif": exif_with(orientation=3)},
        "GIF": {},
        "TIFF": {"compression": "tiff_lzw"},
    }.items()
}


@settings(max_examples=400, deadline=None)
@given(
    name=st.sampled_from(sorted(SEEDS)),
    edits=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=6)), max_size=8),
    cut=st.floats(0.02, 1),
)
def test_corrupt_bytes_never_raise(name, edits, cut):
    data = bytearray(SEEDS[name])
    for place, patch in edits:
        at = int(place**2 * len(data))  # headers get more of it
        data[at : at + len(patch)] = patch
    row = one(bytes(data[: int(cut * len(data))]))
    assert (row["reject"] is None) == (row.get("image") is not None)
    if row["reject"] is None:  # what comes out can be decoded, and is as large as said
        assert open_rgb(row["image"], OPTIONS.max_pixels).size == (row["width"], row["height"])


def pictures_of_every_mode() -> Iterator[tuple[str, bytes]]:
    rgb = photograph().resize((60, 40))
    alpha = Image.linear_gradient("L").resize(rgb.size)
    for mode in ("1", "L", "P", "RGB"):
        yield f"{mode} PNG", encoded(rgb.convert(mode), "PNG")
    rgba = rgb.copy()
    rgba.putalpha(alpha)
    yield "RGBA PNG", encoded(rgba, "PNG")
    yield "RGBA WEBP", encoded(rgba, "WEBP", lossless=True)
    yield "LA PNG", encoded(rgba.convert("LA"), "PNG")
    yield "P with transparency", encoded(rgba.convert("RGBA").quantize(16), "PNG")
    yield "GIF with transparency", encoded(rgb.convert("P"), "GIF", transparency=3)
    yield "16-bit PNG", encoded(Image.fromarray(np.asarray(rgb.convert("L")).astype(np.uint16) * 257), "PNG")
    yield "F TIFF", encoded(rgb.convert("L").convert("F"), "TIFF")
    yield "CMYK JPEG", encoded(rgb.convert("CMYK"), "JPEG")
    yield "YCbCr JPEG turned", encoded(rgb, "JPEG", exif=exif_with(orientation=6))
    frames = [rgb.rotate(angle) for angle in (0, 90)]
    yield "animated GIF", encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    yield "animated WEBP", encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:])


@pytest.mark.parametrize(
    ("name", "data"), pictures_of_every_mode(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_pixels_are_those_that_models_see(name, data):
    ours = np.asarray(open_rgb(data, 10**7))
    theirs = to_rgb(Image.open(io.BytesIO(data)), "picture", 10**7)
    assert torch.equal(torch.from_numpy(ours.copy()).permute(2, 0, 1), theirs)


def test_captioners_get_a_jpeg_no_larger_than_asked_and_never_enlarged():
    assert Image.open(io.BytesIO(scaled_jpeg(photograph(), 300))).size == (300, 200)
    assert Image.open(io.BytesIO(scaled_jpeg(photograph(), 3000))).size == (600, 400)


def bits(one: bytes, other: bytes) -> int:
    return (int.from_bytes(one, "big") ^ int.from_bytes(other, "big")).bit_count()


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_the_perceptual_hash_is_that_of_imagehash_but_for_a_few_bits(name):
    picture = photograph(name)
    reference = np.packbits(imagehash.phash(picture, hash_size=16).hash).tobytes()
    assert bits(perceptual_hash(picture.convert("L")), reference) <= 4
    assert (
        bits(one(encoded(picture, "JPEG", quality=95))["phash"], reference) <= 10
    )  # decoded at an eighth of its size


def test_copies_hash_near_each_other_and_different_photographs_far():
    def hash_of(picture: Image.Image, **options: object) -> bytes:
        return one(encoded(picture, "JPEG", **options))["phash"]

    originals = {name: hash_of(photograph(name), quality=95) for name in PHOTOGRAPHS}
    for name, original in originals.items():
        picture = photograph(name)
        assert bits(original, hash_of(picture, quality=60)) <= 15
        assert bits(original, hash_of(picture.resize((picture.width // 2, picture.height // 2)))) <= 15
        assert bits(original, hash_of(ImageEnhance.Brightness(picture).enhance(1.05))) <= 15
        assert min(bits(original, other) for key, other in originals.items() if key != name) > 60


@pytest.fixture
def image_server() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path.startswith("/good")
            self.send_response(200 if found else 404)
            self.send_header("Content-Length", str(len(JPEG) if found else 0))
            self.end_headers()
            self.wfile.write(JPEG if found else b"")

        def log_message(self, *_: object) -> None:
            """Nothing on the test's output."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_links_are_fetched_in_order_and_each_failure_is_that_rows_own(image_server, monkeypatch):
    options = Options(source="s", license="l", allow_urls=True, in_flight=4)
    urls = [f"{image_server}/{'bad' if number % 3 == 0 else 'good'}{number}" for number in range(11)]
    items = [{"url": url} for url in urls] + [{"bytes": JPEG}, {"problem": "gone: x", "url": urls[1]}]
    # Without this the loopback is private and every link is refused:
    rows, _ = ingested(*items, options=options)
    assert all(row["reject"].startswith("url refused") for row in rows[:11])
    monkeypatch.setattr(links, "Links", functools.partial(links.Links, allowed=lambda address: True))
    rows, _ = ingested(*items, options=options)
    assert [row["reject"] is None for row in rows] == [number % 3 != 0 for number in range(11)] + [True, False]
    assert all(row["image"] == JPEG for row in rows if row["reject"] is None)
    assert rows[0]["reject"].startswith("fetch failed")


def test_links_that_nobody_answers_stop_the_run_instead_of_being_rejected(image_server, monkeypatch):
    """The server is gone; so is every picture, for now."""
    monkeypatch.setattr(links, "Links", functools.partial(links.Links, patience_s=0.5, allowed=lambda address: True))
    options = Options(source="s", license="l", allow_urls=True)
    with pytest.raises(StopRun, match=r"nothing came from 127\.0\.0\.1"):
        ingested(*[{"url": f"http://127.0.0.1:1/{number}"} for number in range(20)], options=options)
    with pytest.raises(StopRun, match=r"nothing came from nobody\.invalid"):
        ingested(*[{"url": f"http://nobody.invalid/{number}"} for number in range(20)], options=options)


def test_fetching_none_at_once_is_refused():
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        Options(source="s", license="l", allow_urls=True, in_flight=0)
