"""A look at a source: how much there is, how large pictures are, what cannot be used and why, and a contact sheet.

Rows are a sample from all over the source, and their pictures are decoded.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from finecap.files import committed
from finecap.pictures import MAX_PIXELS, BadPicture, encoded, open_reduced, open_rgb
from finecap.records import check_box
from finecap.sources.door import Source
from finecap.sources.rows import BadRow, Part, Row, Size

COLUMNS, LINES = 8, 4
TILE, TEXT_SIZE, TEXT_WIDTH = 200, 12, 28
LINE_HEIGHT = 15
TEXT_HEIGHT = 2 + 3 * LINE_HEIGHT  # id, size, words
PERCENTILES = (0, 5, 25, 50, 75, 95, 100)
UNREAD = 20  # names of columns that are listed
FIRST_IDS = 3  # of rows that cannot be used, for each kind of reason
DECODED_SIDE = 512  # to which a JPEG may be scaled down while it is decoded, as in training
SEED = 0
# Parts that are read at least, and rows of them at most as a multiple of those that are looked at.
PARTS, READ_ROWS = 8, 16
BOX_COLOR = (220, 0, 220)


@dataclass
class Look:
    """What was seen.

    Attributes:
        rows: rows that were looked at.
        total: rows of the source, as far as they are known without reading it.
        whole: whether `total` is all of them.
        sizes: upright width and height of every picture.
        counts: how many captions, questions, regions, ... there are.
        rejects: how many rows cannot be used, by kind of reason; `examples` has the first ones of each kind.
        usable: rows that can be used: the part, their number in it, and themselves.
        pictured: rows with pictures, of which some may not be decodable.
    """

    rows: int = 0
    total: int = 0
    whole: bool = True
    sizes: list[Size] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    rejects: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[BadRow]] = field(default_factory=dict)
    usable: list[tuple[Part, int, Row]] = field(default_factory=list)
    pictured: list[tuple[Part, int, Row]] = field(default_factory=list)

    @property
    def shown(self) -> list[tuple[Part, int, Row]]:
        """Rows for the contact sheet, from all over what was read."""
        wanted = min(COLUMNS * LINES, len(self.pictured))
        return [self.pictured[at * len(self.pictured) // wanted] for at in range(wanted)]

    def reject(self, row: BadRow) -> None:
        """Count a row that cannot be used."""
        kind = row.reason.partition(":")[0]
        self.rejects[kind] += 1
        self.examples.setdefault(kind, [])
        if len(self.examples[kind]) < FIRST_IDS:
            self.examples[kind].append(row)


def look_at(source: Source, most_rows: int) -> Look:
    """Draw rows from parts all over the source, the same ones each time, and decode their pictures.

    Raises:
        StopRun: a file of the source is gone.
    """
    known = [part.rows for part in source.parts if part.rows is not None]
    seen = Look(total=sum(known), whole=len(known) == len(source.parts))
    for part, number, row in _decoded(source, seen, _sample(source, most_rows)):
        seen.sizes += row.sizes
        seen.counts.update(_counts(row))
        seen.counts["without a caption"] += source.kind == "captions" and not (row.record or {}).get("global_caption")
        seen.usable.append((part, number, row))
    return seen


def report(source: Source, seen: Look) -> str:
    """The look in lines of text."""
    total = counted(seen.total, "rows") if seen.whole else "rows that are counted only by reading all of them"
    lines = [
        f"{source.name}: {source.kind}, {counted(len(source.parts), 'parts')}, {total}",
        f"looked at {counted(seen.rows, 'rows')}: {len(seen.usable):,} can be used, with "
        f"{counted(len(seen.sizes), 'pictures')} decoded "
        f"({'all rows' if seen.whole and seen.rows == seen.total else f'a sample, seed {SEED}'})",
    ]
    if counts := [counted(count, name) for name, count in seen.counts.items() if count]:
        lines.append("  " + ", ".join(counts))
    if unread := not_read(source):
        lines.append(unread)
    if seen.sizes:
        short = np.percentile([min(size) for size in seen.sizes], PERCENTILES)
        pixels = np.percentile([width * height / 1e6 for width, height in seen.sizes], PERCENTILES)
        lines += [
            f"{'percentile':<22}" + "".join(f"{one:>9}" for one in PERCENTILES),
            f"{'short side, pixels':<22}" + "".join(f"{one:>9.0f}" for one in short),
            f"{'area, megapixels':<22}" + "".join(f"{one:>9.3f}" for one in pixels),
        ]
    for kind, count in seen.rejects.most_common():
        first, *others = seen.examples[kind]
        more = f"; also {', '.join(row.id for row in others)}" if others else ""
        what = "cannot be used" if first.is_bad else "left out"
        lines.append(f"{what}: {count:,} {kind!r}, such as {first.id}: {first.reason}{more}")
    return "\n".join(lines)


def counted(count: int, things: str) -> str:
    """The number of some things, which are given in the plural: "1 row", "2 boxes outside of their picture"."""
    first, _, rest = things.replace("their", "its").partition(" ")
    one = first.removesuffix("es" if first.endswith("xes") else "s")
    return f"{count:,} {f'{one} {rest}'.strip() if count == 1 else things}"


def not_read(source: Source) -> str:
    """A line with the columns that nothing is made of, or nothing."""
    more = f" and {len(source.unread) - UNREAD} more" if len(source.unread) > UNREAD else ""
    return f"columns that are not read: {', '.join(source.unread[:UNREAD])}{more}" if source.unread else ""


def write_contact_sheet(source: Source, seen: Look, path: Path) -> Path:
    """Write a PNG file: up to 8 x 4 pictures with id, size and the beginning of the caption (or of the first answer),
    boxes of regions drawn; what cannot be decoded is said in its place.

    Raises:
        StopRun: the file cannot be written, or a file of the source is gone.
    """
    shown = seen.shown
    lines = -(-max(len(shown), 1) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * TILE, lines * (TILE + TEXT_HEIGHT)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(TEXT_SIZE)
    for number, (row, found) in enumerate(_with_pictures(source, shown)):
        left, top = number % COLUMNS * TILE, number // COLUMNS * (TILE + TEXT_HEIGHT)
        width, height = row.sizes[0]
        try:
            sheet.paste(_tile(row, found), (left + 2, top + 2))
        except BadPicture as error:
            draw.multiline_text((left + 4, top + 4), _folded(str(error)), fill="red", font=font)
        more = f", {len(row.sizes)} pictures" if len(row.sizes) > 1 else ""
        lines_of_text = [row.id[-TEXT_WIDTH:], f"{width} x {height}{more}", _words(row)[:TEXT_WIDTH]]
        for at, text in enumerate(lines_of_text):
            draw.text((left + 4, top + TILE + at * LINE_HEIGHT), text, fill="black", font=font)
    with committed(path) as aside:
        aside.write_bytes(encoded(sheet, "PNG"))
    return path


def _sample(source: Source, most: int) -> list[tuple[Part, dict[int, Row | BadRow]]]:
    """Rows by their number in each of some parts: `most` of all the rows of these parts, drawn by the seed."""
    draw = random.Random(SEED)
    read: dict[int, list[Row | BadRow]] = {}
    count = 0
    for at in _spread(len(source.parts), draw.randrange(len(source.parts))):
        read[at] = source.read_rows(source.parts[at])
        count += len(read[at])
        if count >= most and (len(read) >= PARTS or count >= READ_ROWS * most or source.parts[at].rows is None):
            break
    places = [(at, number) for at, rows in sorted(read.items()) for number in range(len(rows))]
    drawn = sorted(draw.sample(places, min(most, len(places))))
    return [
        (source.parts[at], {number: read[at][number] for _, number in group})
        for at, group in groupby(drawn, key=lambda place: place[0])
    ]


def _decoded(
    source: Source, seen: Look, sample: list[tuple[Part, dict[int, Row | BadRow]]]
) -> Iterator[tuple[Part, int, Row]]:
    """The rows of a sample that can be used; the others are counted."""
    for part, rows in sample:
        seen.rows += len(rows)
        shown = [number for number, row in rows.items() if isinstance(row, Row) and row.sizes]
        found = source.read_pictures(part, shown)
        for number, row in rows.items():
            if isinstance(row, BadRow):
                seen.reject(row)
                continue
            if row.sizes:
                seen.pictured.append((part, number, row))
            if bad := _undecodable(row, found.pop(number, [])):
                seen.reject(bad)
            else:
                yield part, number, row


def _undecodable(row: Row, pictures: list[bytes] | BadRow) -> BadRow | None:
    """Why a row's pictures cannot be decoded as training does it, or None."""
    if isinstance(pictures, BadRow):
        return BadRow(row.id, pictures.reason)
    for data, (width, height) in zip(pictures, row.sizes, strict=True):
        scale = min(1, DECODED_SIDE / max(width, height))
        target = max(1, round(width * scale)), max(1, round(height * scale))
        try:
            open_reduced(data, MAX_PIXELS, (width, height), target)
        except BadPicture as error:
            return BadRow(row.id, str(error))
    return None


def _spread(count: int, first: int) -> Iterator[int]:
    """All places of a ring: from `first` on every 2^n-th, then those half-way between them, and so on."""
    step = 1 << count.bit_length()
    yield first
    while step > 1:
        yield from ((first + at) % count for at in range(step // 2, count, step))
        step //= 2


def _counts(row: Row) -> Counter[str]:
    counts = Counter(pictures=len(row.sizes))
    if row.record:
        record = row.record
        counts["captions"] = bool(record["global_caption"]) + len(record["captions"])
        counts["questions"], counts["regions"] = len(record["qa"]), len(record["regions"])
        counts["regions with text"] = sum(bool(region["text"]) for region in record["regions"])
        counts["boxes outside of their picture"] = sum(
            not _is_box(region["bbox"], row.sizes[0]) for region in record["regions"]
        )
    if row.messages:
        counts["conversations"] = 1
        counts["answers"] = sum(turn["role"] == "assistant" for turn in row.messages)
        counts["without a picture"] = not row.sizes
    return counts


def _with_pictures(
    source: Source, shown: Sequence[tuple[Part, int, Row]]
) -> Iterator[tuple[Row, list[bytes] | BadRow]]:
    for part, group in groupby(shown, key=lambda one: one[0]):
        rows = {number: row for _, number, row in group}
        found = source.read_pictures(part, rows)
        yield from ((row, found[number]) for number, row in rows.items())


def _words(row: Row) -> str:
    """The caption, or the first answer, in one line."""
    if record := row.record:
        answers = (answer for question in record["qa"] for answer in question["answers"])
        texts = [record["global_caption"], *(one["text"] for one in record["captions"]), *answers]
    else:
        spoken = (turn for turn in row.messages or [] if turn["role"] == "assistant")
        texts = [piece.get("text") for turn in spoken for piece in turn["content"]]
    return " ".join(next((text for text in texts if text), "").split())


def _tile(row: Row, found: list[bytes] | BadRow) -> Image.Image:
    """Raises BadPicture."""
    if isinstance(found, BadRow):
        raise BadPicture(found.reason)
    image = open_rgb(found[0], MAX_PIXELS)
    scale = min((TILE - 4) / image.width, (TILE - 4) / image.height)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    image = image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    draw = ImageDraw.Draw(image)
    for region in row.record["regions"] if row.record else []:
        if _is_box(region["bbox"], row.sizes[0]):
            draw.rectangle(tuple(value * scale for value in region["bbox"]), outline=BOX_COLOR)
    return image


def _is_box(box: list[float], size: Size) -> bool:
    try:
        check_box(box, *size, where="")
    except ValueError:
        return False
    return True


def _folded(text: str) -> str:
    return "\n".join(text[at : at + TEXT_WIDTH] for at in range(0, min(len(text), 8 * TEXT_WIDTH), TEXT_WIDTH))
