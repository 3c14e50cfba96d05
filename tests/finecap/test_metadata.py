"""What a published picture tells beside its pixels: nothing, wherever in the file somebody put it."""

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageDraw

from finecap.metadata import without_metadata, without_texts
from finecap.pictures import encoded, open_rgb
from tests.finecap.engine.passes.test_ingest import one

MARK = b"MARK-51.5N-Jane-Doe-serial-4711"
TEXT = MARK.decode()


def picture(shift: int = 0) -> Image.Image:
    image = Image.linear_gradient("L").resize((96, 64)).convert("RGB")
    ImageDraw.Draw(image).ellipse((10 + shift, 10, 60, 50), fill=(200, 30, 60))
    return image


def full_exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x013B] = exif[0x8298] = exif[0x010E] = TEXT  # Artist, Copyright, ImageDescription
    exif.get_ifd(0x8825).update({1: "N", 2: (51.0, 30.0, 0.0), 27: MARK})
    exif.get_ifd(0x8769).update({0xA430: TEXT, 0xA431: TEXT, 0x927C: MARK})  # owner, serial number, maker note
    return exif


def profile() -> bytes:
    """An sRGB profile with a tag for a screen's serial number and a name in its header."""
    plain = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    tag = struct.pack(">4sII", b"mmod", len(plain) + 12, len(MARK))
    count = int.from_bytes(plain[128:132], "big")
    table, body = bytearray(plain[132 : 132 + 12 * count]), plain[132 + 12 * count :]
    for number in range(count):
        offset = int.from_bytes(table[12 * number + 4 : 12 * number + 8], "big")
        table[12 * number + 4 : 12 * number + 8] = struct.pack(">I", offset + 12)
    header = bytearray(plain[:128])
    header[48:52] = MARK[:4]
    return bytes(header) + struct.pack(">I", count + 1) + bytes(table) + tag + body + MARK


def jpeg_segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


XMP = b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta><rdf:Description aux:OwnerName='" + MARK + b"'/></x:xmpmeta>"
IPTC = b"Photoshop 3.0\x008BIM\x04\x04\0\0\0\0" + struct.pack(">I", len(MARK) + 5) + b"\x1c\x02\x50\0\x1f" + MARK


def marked_jpeg(places: int, progressive: bool = False) -> bytes:
    """Marks in every application segment, in comments before and behind scans, behind the picture."""
    data = encoded(picture(), "JPEG", exif=full_exif(), icc_profile=profile(), progressive=progressive, comment=MARK)
    extra = [jpeg_segment(0xE1, XMP), jpeg_segment(0xED, IPTC), jpeg_segment(0xFE, MARK)]
    extra += [jpeg_segment(0xE0 + number, b"vendor\0" + MARK) for number in range(16)]
    extra += [jpeg_segment(0xE0, b"JFIF\0\1\2\0\0\1\0\1\x02\x05" + MARK[:30])]
    at = data.index(b"\xff\xdb")
    data = data[:at] + b"".join(extra[:places]) + data[at:]
    scans = [found for found in range(at, len(data)) if data[found : found + 2] == b"\xff\xc4"]
    data = data[: scans[-1]] + jpeg_segment(0xFE, MARK) + jpeg_segment(0xE1, XMP) + data[scans[-1] :]
    return data + encoded(picture(20), "JPEG", exif=full_exif()) + MARK


def marked_mpo() -> bytes:
    """As phones write it: the second picture has an EXIF of its own."""
    second = picture(20)
    second.encoderinfo = {"exif": full_exif()}
    return encoded(picture(), "MPO", save_all=True, append_images=[second], exif=full_exif()) + MARK


def marked_png() -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    data = encoded(picture(), "PNG", exif=full_exif(), icc_profile=profile())
    texts = chunk(b"tEXt", b"Author\0" + MARK) + chunk(b"zTXt", b"Author\0\0" + zlib.compress(MARK))
    texts += chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP) + chunk(b"tIME", MARK[:7]) + chunk(b"prVt", MARK)
    return data[:33] + texts + data[33:-12] + texts + data[-12:] + MARK


def marked_webp(lossless: bool = False) -> bytes:
    data = encoded(picture(), "WEBP", exif=full_exif(), xmp=XMP, icc_profile=profile(), lossless=lossless)
    odd = b"ODD " + struct.pack("<I", len(MARK)) + MARK + b"\0"
    data += odd
    return data[:4] + struct.pack("<I", len(data) - 8) + data[8:] + MARK


def marked_animation(file_format: str) -> bytes:
    options = {"exif": full_exif(), "xmp": XMP} if file_format == "WEBP" else {"comment": MARK}
    data = encoded(picture(), file_format, save_all=True, append_images=[picture(20)], loop=0, **options)
    return data + MARK


def marked_gif() -> bytes:
    data = encoded(picture(), "GIF", comment=MARK)
    blocks = b"\x21\xff\x0bXMP DataXMP" + bytes([len(MARK)]) + MARK + b"\0"
    blocks += (
        b"\x21\xff\x0bNETSCAPE2.0" + bytes([len(MARK)]) + MARK + b"\0\x21\x01" + bytes([len(MARK)]) + MARK + b"\0"
    )
    return data[:-1] + blocks + data[-1:] + MARK


def marked_avif() -> bytes:
    return encoded(picture(), "AVIF", exif=full_exif(), xmp=XMP)


def marked_box(kind: bytes) -> bytes:
    return encoded(picture(), "AVIF") + struct.pack(">I4s", 8 + len(MARK), kind) + MARK


def marked_tiff() -> bytes:
    return encoded(picture(), "TIFF", exif=full_exif(), compression="tiff_lzw") + MARK


def marked_jpeg2000() -> bytes:
    return encoded(picture(), "JPEG2000", comment=MARK) + struct.pack(">I", 8 + len(MARK)) + b"uuid" + MARK


def png_with(*kinds: bytes) -> bytes:
    """Marks in chunks that say something in a few bytes."""
    data = encoded(picture(), "PNG")
    bodies = [kind + MARK for kind in kinds]
    chunks = [struct.pack(">I", len(MARK)) + body + struct.pack(">I", zlib.crc32(body)) for body in bodies]
    return data[:33] + b"".join(chunks) + data[33:]


def webp_with(*kinds: bytes) -> bytes:
    """Marks in second chunks of a kind, behind the picture."""
    body = encoded(picture(), "WEBP")[8:]
    body += b"".join(kind + struct.pack("<I", len(MARK)) + MARK + b"\0" * (len(MARK) % 2) for kind in kinds)
    return b"RIFF" + struct.pack("<I", len(body)) + body


FILES: dict[str, Callable[[], bytes]] = {
    "JPEG": lambda: marked_jpeg(99),
    "progressive JPEG": lambda: marked_jpeg(99, progressive=True),
    "MPO": marked_mpo,
    "PNG": marked_png,
    "PNG with long numbers": lambda: png_with(b"gAMA", b"pHYs", b"bKGD", b"sBIT", b"cICP", b"mDCV", b"cLLI"),
    "WEBP with two pictures": lambda: webp_with(b"VP8 ", b"VP8L", b"ALPH"),
    "AVIF with more data": lambda: marked_box(b"mdat"),
    "APNG": lambda: marked_animation("PNG"),
    "WEBP": marked_webp,
    "lossless WEBP": lambda: marked_webp(lossless=True),
    "animated WEBP": lambda: marked_animation("WEBP"),
    "GIF": marked_gif,
    "animated GIF": lambda: marked_animation("GIF"),
    "AVIF": marked_avif,
    "AVIF with a box behind it": lambda: marked_box(b"free"),
    "AVIF with an unknown box": lambda: marked_box(b"uuid"),
    "TIFF": marked_tiff,
    "JPEG2000": marked_jpeg2000,
    "PPM": lambda: encoded(picture(), "PPM").replace(b"P6\n", b"P6\n# " + MARK + b"\n") + MARK,
    "BMP": lambda: encoded(picture(), "BMP") + MARK,
}


def told(data: bytes) -> list[str]:
    """Where the mark, or anything of EXIF and XMP, still is: in the bytes, or in a compressed part."""
    found = [place for place, mark in (("bytes", MARK), ("head", MARK[:7]), ("xmp", b"xmp")) if mark in data]
    with Image.open(io.BytesIO(data)) as image:
        for frame in range(getattr(image, "n_frames", 1)):
            image.seek(frame)
            found += [f"{frame} exif"] * bool(image.getexif())
            found += [f"{frame} {key}" for key, value in image.info.items() if MARK[:7].decode() in str(value)]
    return found


@pytest.mark.parametrize("name", FILES)
def test_nothing_planted_anywhere_is_published_and_no_pixel_changes(name):
    data = FILES[name]()
    assert told(data)  # a negative control: the mark is found where it is
    row = one(data)
    assert row["reject"] is None
    assert told(row["image"]) == []
    assert np.array_equal(np.asarray(open_rgb(row["image"], 10**7)), np.asarray(open_rgb(data, 10**7)))
    assert Image.open(io.BytesIO(row["image"])).format == row["format"]


@settings(max_examples=30, deadline=None)
@given(places=st.integers(0, 20), progressive=st.booleans(), orientation=st.sampled_from([1, 3, 6]))
def test_a_jpeg_with_any_segments_upright_or_turned_tells_nothing(places, progressive, orientation):
    data = marked_jpeg(places, progressive)
    exif = full_exif()
    exif[0x0112] = orientation
    data = data[:2] + jpeg_segment(0xE1, exif.tobytes()) + data[2:]
    row = one(data)
    assert row["reject"] is None
    assert told(row["image"]) == []


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_colours_are_kept_and_what_a_profile_says_of_its_owner_is_not(file_format):
    assert MARK in profile()
    stored = Image.open(io.BytesIO(one(encoded(picture(), file_format, icc_profile=profile()))["image"]))
    kept = ImageCms.ImageCmsProfile(io.BytesIO(stored.info["icc_profile"]))
    wide = ImageCms.createProfile("LAB")
    before = ImageCms.buildTransform(ImageCms.ImageCmsProfile(io.BytesIO(profile())), wide, "RGB", "LAB")
    after = ImageCms.buildTransform(kept, wide, "RGB", "LAB")
    colours = [np.asarray(ImageCms.applyTransform(picture(), transform)) for transform in (before, after)]
    assert np.array_equal(*colours)
    assert not np.array_equal(colours[0], np.asarray(picture()))


@pytest.mark.parametrize("mode", ["CMYK", "L"])
def test_jpegs_of_other_colours_keep_what_decides_them(mode):
    data = encoded(picture().convert(mode), "JPEG", exif=full_exif())
    assert np.array_equal(np.asarray(open_rgb(one(data)["image"], 10**7)), np.asarray(open_rgb(data, 10**7)))


@pytest.mark.parametrize("file_format", ["WEBP", "GIF"])
def test_animations_stay_animations(file_format):
    row = one(marked_animation(file_format))
    assert Image.open(io.BytesIO(row["image"])).n_frames == 2


@settings(max_examples=200, deadline=None)
@given(
    name=st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "AVIF"]),
    edits=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=6)), max_size=6),
    cut=st.floats(0.02, 1),
)
def test_corrupt_files_end_and_raise_nothing_but_what_ingest_expects(name, edits, cut):
    data = bytearray(FILES[name]())
    for place, patch in edits:
        at = int(place**2 * len(data))
        data[at : at + len(patch)] = patch
    row = one(bytes(data[: int(cut * len(data))]))
    assert (row["reject"] is None) == (row.get("image") is not None)


def test_what_is_no_profile_is_dropped():
    assert without_texts(b"") is None
    assert without_texts(MARK * 10) is None
    data = encoded(picture(), "JPEG", icc_profile=MARK * 10)
    assert MARK in data
    assert MARK not in (without_metadata(data, "JPEG") or MARK)
