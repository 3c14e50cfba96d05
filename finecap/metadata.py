"""Removes from a picture's file what tells where, when, by whom and with which camera it was made.

A file keeps a list of parts: those that decide its pixels and their colours. It loses all others: EXIF, XMP, IPTC,
maker notes, comments, thumbnails, unknown parts, and what lies behind the picture. The compressed pixels are copied.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterator

# JPEG markers. Kept are SOF, DHT and DAC (C0 to CF), and DQT, DNL, DRI, DHP and EXP (DB to DF).
SOI, EOI, SOS, APP0, APP2, APP14 = 0xD8, 0xD9, 0xDA, 0xE0, 0xE2, 0xEE
JPEG_KEPT = {*range(0xC0, 0xD0), *range(0xDB, 0xE0)}
JPEG_ALONE = {0x01, *range(0xD0, 0xD8)}  # without a length
# The next marker behind compressed pixels, in which FF is followed by 00 or a restart marker.
JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
ICC_HEADER = b"ICC_PROFILE\0"
ICC_PART = 65_519  # bytes of a profile in one segment
# Of the chunks that may hold no more than so many bytes, longer ones hold something else.
PNG_LONGEST = {
    **{b"tRNS": 256, b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"sBIT": 4, b"bKGD": 6, b"pHYs": 9, b"hIST": 512},
    **{b"cICP": 4, b"mDCV": 24, b"cLLI": 8},
}
PNG_KEPT = frozenset((*b"IHDR PLTE IDAT IEND acTL fcTL fdAT".split(), *PNG_LONGEST))
WEBP_KEPT = frozenset((b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF", b"ICCP"))
WEBP_PICTURE = (b"VP8 ", b"VP8L", b"ALPH")
WEBP_EXIF_AND_XMP = 0x08 | 0x04  # bits of the flags in VP8X
WEBP_ICC = 0x20
AVIF_KEPT = frozenset((b"ftyp", b"meta", b"mdat"))
AVIF_FOREIGN = (b"Exif", b"mime", b"uri ", b"uuid")  # kinds of items that are no picture
# Tags of a colour profile that decide colours. Others are texts (a description may name a person's screen), dates,
# measured targets and, in "mmod", the serial number of a screen.
ICC_KEPT = frozenset(
    b"wtpt bkpt chad lumi rXYZ gXYZ bXYZ rTRC gTRC bTRC kTRC gamt cicp A2B0 A2B1 A2B2 A2B3 B2A0 B2A1 B2A2 B2A3 "
    b"D2B0 D2B1 D2B2 D2B3 B2D0 B2D1 B2D2 B2D3".split()
)
MAX_PROFILE_BYTES = 2**24


def without_metadata(data: bytes, file_format: str) -> bytes | None:
    """The file of a picture without metadata.

    Args:
        data: a file that can be decoded.
        file_format: Pillow's name of its format.

    Returns:
        A file of the same first picture, byte for byte in its compressed pixels. Of an MPO (a JPEG with more pictures
        behind the first) only the first is left. None where the file cannot be taken apart safely (TIFF, BMP, PPM,
        JPEG 2000, and AVIF with foreign items): encode such a picture again.
    """
    strip = _BY_FORMAT.get(file_format)
    return strip(data) if strip else None


def _jpeg(data: bytes) -> bytes:
    kept, profile, place = [data[:2]], [], None
    for marker, segment in _jpeg_segments(data):
        body = segment[4:]
        if marker in JPEG_KEPT or marker in (SOS, EOI):
            kept.append(segment)
        elif marker == APP0 and body.startswith(b"JFIF\0"):
            kept.append(_jpeg_segment(APP0, body[:12].ljust(12, b"\0") + b"\0\0"))  # without its thumbnail
        elif marker == APP14 and body.startswith(b"Adobe"):
            kept.append(_jpeg_segment(APP14, body[:12]))
        elif marker == APP2 and body.startswith(ICC_HEADER):
            place = len(kept) if place is None else place
            profile.append(body[len(ICC_HEADER) :])
    if place is not None:
        whole = b"".join(part[2:] for part in sorted(profile, key=lambda part: part[:1]))
        kept[place:place] = _jpeg_profile(without_texts(whole))
    return b"".join(kept)


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker and bytes of each segment behind the start, up to the end of the first picture. The segment of a scan has
    its compressed pixels with it; what lies between segments is left out.
    """
    at = 2
    while found := JPEG_MARKER.search(data, at):
        start, marker = found.start(), data[found.start() + 1]
        if marker in JPEG_ALONE or marker == SOI:
            at = start + 2
            continue
        if marker == EOI:
            yield EOI, data[start : start + 2]
            return
        at = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
        if marker == SOS:
            after = JPEG_MARKER.search(data, at)
            at = after.start() if after else len(data)
        yield marker, data[start:at]


def _jpeg_segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def _jpeg_profile(profile: bytes | None) -> list[bytes]:
    parts = [profile[at : at + ICC_PART] for at in range(0, len(profile), ICC_PART)] if profile else []
    return [
        _jpeg_segment(APP2, ICC_HEADER + bytes([number, len(parts)]) + part)
        for number, part in enumerate(parts, start=1)
    ]


def _png(data: bytes) -> bytes:
    kept, at = [data[:8]], 8
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        chunk = data[at : at + 12 + length]
        at += 12 + length
        if kind == b"iCCP" and (profile := _png_profile(chunk[8:-4])):
            kept.append(_png_chunk(b"iCCP", b"icc\0\0" + zlib.compress(profile)))
        elif kind in PNG_KEPT and length <= PNG_LONGEST.get(kind, length):
            kept.append(chunk)
        if kind == b"IEND":
            break
    return b"".join(kept)


def _png_profile(body: bytes) -> bytes | None:
    _, _, packed = body.partition(b"\0")
    try:
        return without_texts(zlib.decompressobj().decompress(packed[1:], MAX_PROFILE_BYTES))
    except zlib.error:
        return None


def _png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _webp(data: bytes) -> bytes:
    size = min(len(data), 8 + int.from_bytes(data[4:8], "little"))
    body = _riff_without_metadata(data[12:size])
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def _riff_without_metadata(data: bytes) -> bytes:
    """The chunks of a WebP file, or of one frame of an animation, whose first 16 bytes are its place."""
    kept, at = [], 0
    chunks = []
    while at + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, at)
        chunks.append((kind, data[at + 8 : at + 8 + length]))
        at += 8 + length + length % 2
    profiles = {kind: without_texts(body) for kind, body in chunks if kind == b"ICCP"}
    seen: set[bytes] = set()
    for kind, body in chunks:
        # All but frames come once, and nothing of the picture behind it: no reader looks at others.
        again = kind in seen and kind != b"ANMF"
        behind = kind in WEBP_PICTURE and not seen.isdisjoint((b"VP8 ", b"VP8L"))
        if kind not in WEBP_KEPT or again or behind:
            continue
        seen.add(kind)
        if kind == b"VP8X":
            dropped = WEBP_EXIF_AND_XMP | (0 if profiles.get(b"ICCP") else WEBP_ICC)
            body = bytes([body[0] & ~dropped]) + body[1:10]
        elif kind == b"ANMF":
            body = body[:16] + _riff_without_metadata(body[16:])
        elif kind == b"ICCP":
            body = profiles[kind] or b""
            if not body:
                continue
        kept.append(kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2))
    return b"".join(kept)


def _gif(data: bytes) -> bytes:
    """Without comments, plain texts and extensions of applications (XMP is one), but with the one that loops."""
    at = 13 + _palette(data[10])
    kept = [data[:at]]
    while at < len(data):
        start, kind = at, data[at]
        if kind == 0x2C:  # a picture: its place, its own palette, the width of its codes, its blocks
            at = _after_blocks(data, at + 11 + _palette(data[at + 9]))
        elif kind == 0x21:
            at = _after_blocks(data, at + 2)
        else:
            break
        block = data[start:at]
        if kind == 0x2C or block[1] == 0xF9 or (block[2:14] == b"\x0bNETSCAPE2.0" and len(block) == 19):
            kept.append(block)
    return b"".join([*kept, b"\x3b"])


def _palette(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _after_blocks(data: bytes, at: int) -> int:
    while at < len(data) and data[at]:
        at += 1 + data[at]
    return at + 1


def _avif(data: bytes) -> bytes | None:
    """The file as it is if it holds a picture and nothing else: the places of its parts are written in it."""
    at, seen = 0, set()
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind not in AVIF_KEPT or length < 8 or kind in seen:
            return None
        seen.add(kind)
        if kind == b"meta" and any(item in data[at : at + length] for item in AVIF_FOREIGN):
            return None
        at += length
    return data if at == len(data) else None


_BY_FORMAT: dict[str, Callable[[bytes], bytes | None]] = {
    "JPEG": _jpeg,
    "MPO": _jpeg,
    "PNG": _png,
    "WEBP": _webp,
    "GIF": _gif,
    "AVIF": _avif,
}


def without_texts(profile: bytes) -> bytes | None:
    """An ICC profile with the tags alone that decide colours; None if it is no profile."""
    if len(profile) < 132 or profile[36:40] != b"acsp":
        return None
    count = int.from_bytes(profile[128:132], "big")
    if 132 + 12 * count > len(profile):
        return None
    tags = [struct.unpack_from(">4sII", profile, 132 + 12 * number) for number in range(count)]
    tags = [tag for tag in tags if tag[0] in ICC_KEPT and tag[1] + tag[2] <= len(profile)]
    table, body, places = [], bytearray(), {}
    first = 132 + 12 * len(tags)
    for name, offset, size in tags:
        if (offset, size) not in places:  # tags may share their content
            places[offset, size] = first + len(body)
            body += profile[offset : offset + size] + bytes(-size % 4)
        table.append(struct.pack(">4sII", name, places[offset, size], size))
    # Its size, the fields that decide how it is read (profile's maker, model and creator are left out), no checksum.
    header = bytearray(profile[:128])
    header[:4] = struct.pack(">I", first + len(body))
    header[24:36] = struct.pack(">6H", 2000, 1, 1, 0, 0, 0)
    header[48:56], header[80:128] = bytes(8), bytes(48)
    return bytes(header) + struct.pack(">I", len(tags)) + b"".join(table) + bytes(body)
