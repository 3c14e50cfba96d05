"""What users, captioners, reading models and detectors may come up with: odd pictures, texts, lines and boxes."""

import random

from PIL import Image

from finecap.engine.detectors.detector import Detection, DetectionFailed
from finecap.engine.reading.reader import Line, Piece
from finecap.pictures import encoded
from tests.support.caption_examples import HONEST, INSTRUCTED, LOOPS, REFUSALS, WRAPPED
from tests.support.hostile_pictures import grey_only, many_scans

SIZE = (72, 56)
# Where a text is and nothing else.
LINE = (30, 20, 40, 30)
PIECES = [
    *HONEST,
    *REFUSALS,
    *LOOPS,
    *(answer for answer, _, _ in WRAPPED),
    *(caption for caption, _ in INSTRUCTED),
    *(text for _, texts in INSTRUCTED for text in texts),
]
MARKS = [
    *("", " ", "\n", "\t", "\0", "\x1b[31m", "\u202e", "\u2028", "\ufeff", "\ud800", "\U0010ffff"),
    *("é", "漢", "😀", "ﬁ", "ß", "İ", "…", "...", "№", "#", "\\", "/", "../", "<b>", "&amp;", "|", "a://b", "="),
    *('"', '" "', "“", "”", "‘", "’", "'", "«", "»", "「", "```", "<think>", "</think>", "<|im_end|>", "{x1}", "{"),
    *("25²", "10³", "½", "٣", "９", "1e9", "1.234.567", "1,2,3", "0", "-0", "NaN", "inf", "%", "5% of the image"),
    *("12:30", "2x3", "'90s", "7-column", "up to "),
    *("9" * 26, "9" * 40, "1" * 4400, "," * 300, "." * 300, "a" * 3000, " " * 3000, "“" * 500, "'a" * 500),
]


class Injected(Exception):
    """A failure that is meant: the one type of exception that may end a row here."""


def odd_text(source: random.Random) -> str:
    """Pieces of captions and strange marks, cut, joined, repeated; now and then far too long."""
    parts = source.choices([*PIECES, *MARKS], k=source.randint(1, 6))
    text = source.choice(["", " ", "\n"]).join(parts)
    draw = source.random()
    if draw < 0.1:
        return text[source.randrange(len(text) + 1) :]
    if draw < 0.2:
        return (text * source.randint(2, 60))[: source.randint(1, 20_000)]
    if draw < 0.22:
        return (text + "x") * (200_000 // (len(text) + 1))
    if draw < 0.3:
        letters = list(text)
        for _ in range(source.randint(1, 30)):
            letters.insert(source.randrange(len(letters) + 1), source.choice(MARKS[:60]))
        return "".join(letters)
    return text


def plain_picture(source: random.Random) -> Image.Image:
    """Noise that no other call makes, so that it is nobody's duplicate, in four large fields."""
    noise = Image.frombytes("RGB", (4, 4), source.randbytes(48)).resize(SIZE, Image.Resampling.NEAREST)
    return Image.blend(noise, Image.frombytes("RGB", SIZE, source.randbytes(3 * SIZE[0] * SIZE[1])), 0.3)


def odd_picture(source: random.Random) -> bytes | None:
    """A picture, mostly a sound one; else cut, with bits turned, of another mode, size or format, or none at all."""
    image, draw = plain_picture(source), source.random()
    if draw < 0.6:
        return encoded(image, source.choice(["JPEG", "PNG", "WEBP"]))
    if draw < 0.68:
        mode = source.choice(["1", "L", "LA", "P", "RGBA", "CMYK", "I", "F", "I;16", "YCbCr"])
        return encoded((image.convert("I") if mode == "I;16" else image).convert(mode), "TIFF")
    if draw < 0.74:
        size = source.choice([(1, 1), (1, 300), (300, 1), (2, 2), (3000, 20), (7, 900)])
        return encoded(image.resize(size), source.choice(["PNG", "JPEG", "GIF", "BMP"]))
    if draw < 0.78:
        exif = Image.Exif()
        exif[0x0112] = source.choice([0, 3, 6, 8, 99])
        exif.get_ifd(0x8825).update({1: "N"})
        return encoded(image, source.choice(["JPEG", "PNG", "WEBP"]), exif=exif)
    if draw < 0.82:
        return source.choice([grey_only(image), many_scans(image, 40), many_scans(image.resize((4, 4)), 40)])
    if draw < 0.86:
        return source.choice([None, b"", b"\xff\xd8", b"GIF89a", b"<svg/>", source.randbytes(500)])
    data = bytearray(encoded(image, source.choice(["JPEG", "PNG", "WEBP", "GIF", "TIFF", "JPEG2000", "AVIF", "BMP"])))
    if source.random() < 0.3:
        return bytes(data[: source.randrange(len(data))])
    for _ in range(source.randint(1, 12)):
        data[source.randrange(len(data))] ^= 1 << source.randrange(8)
    return bytes(data)


class OddReader:
    """In place of the reading models: lines and words of odd texts at odd places of the picture."""

    name = "odd reader"

    def read(self, image: Image.Image) -> list[Line]:
        source = random.Random(image.tobytes())
        return [
            Line(self._piece(source, image), tuple(self._piece(source, image) for _ in range(source.randrange(4))))
            for _ in range(source.choice([0, 0, 1, 3, 40]))
        ]

    def _piece(self, source: random.Random, image: Image.Image) -> Piece:
        left, top = source.randrange(image.width), source.randrange(image.height)
        box = (left, top, source.randint(left + 1, image.width), source.randint(top + 1, image.height))
        if source.random() < 0.5 and image.size == SIZE:
            box = LINE
        text = odd_text(source).encode("utf-8", "replace").decode()[:500]
        return Piece(box, source.choice([text, text, str(source.randrange(60)), "", " "]), source.random())


class OddDetector:
    """In place of a detector: boxes that may lie anywhere or be none, scores that may be no numbers; it may fail."""

    name = "odd detector"

    async def detect(self, image: Image.Image, phrases: list[str]) -> list[Detection]:
        source = random.Random(image.tobytes() + repr(phrases).encode())
        if source.random() < 0.03:
            raise source.choice([Injected("odd \ud800"), Injected(), DetectionFailed("detector failed: odd")])
        values = [0, 1, 5, 30.5, 71.99999, 72, 100, -3, 1e9, float("nan"), float("inf"), 1e-9]
        boxes = [
            LINE
            if source.random() < 0.3
            else (source.uniform(0, 30), source.uniform(0, 20), source.uniform(40, 90), source.uniform(30, 70))
            if source.random() < 0.6
            else tuple(source.choices(values, k=4))
            for _ in range(source.choice([0, 1, 3]))
        ]
        scores = [None, 0.5, 0.9, 1.0, 0.0, float("nan"), 7.0]
        return [Detection(box, source.randrange(len(phrases)), source.choice(scores)) for box in boxes]
