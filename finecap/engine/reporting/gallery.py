"""A page of records to look at: pictures with their boxes, captions, texts and the verdicts on them, in one file."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from finecap.engine.reporting.templates import render
from finecap.files import write_text
from finecap.pictures import ANY_SIZE, open_rgb
from finecap.records import TEXT_KINDS, text_lines

# Pixels: the longer side of an embedded picture, and what tiny pictures are enlarged to.
LONG_SIDE, SMALL_SIDE = 640, 400
WRITING = (*TEXT_KINDS, "chart")
# To be seen on light and dark pictures alike, and none near the blue-green of texts.
COLORS = ("#e69f00", "#e2622a", "#d874ad", "#35a853", "#a78bfa", "#6c94ff")
NOT_SAID = {"phrases": None, "boxes": None, "ocr": None, "checks": [], "flags": []}
CHIP = (20, 17)  # width and height of a number on the picture, pixels


class Box(NamedTuple):
    """A rectangle on the shown picture, in its pixels; `hint` is shown when the mouse rests on it."""

    x: float
    y: float
    width: float
    height: float
    hint: str


class Thing(NamedTuple):
    """An object: its box, the number and colour that join box and caption, and where the number is drawn."""

    number: int
    color: str
    box: Box
    chip: tuple[float, float]
    region: Mapping[str, Any]


def write_gallery(records: Iterable[Mapping[str, Any]], out: Path, title: str, note: str) -> None:
    """Write the page. It needs no other file and no network; everything in the records is shown as text, whatever it
    says.

    Args:
        records: FineCap records; held one at a time until they are scaled down.
        out: the HTML file.
        note: a line below the title, for instance where the records come from.

    Raises:
        ValueError: a picture cannot be decoded; as StopRun: the disk is full or cannot be written.
    """
    cards = [_card(record) for record in records]
    write_text(out, render("gallery.html.jinja", title=title, note=note, cards=cards))


def _card(record: Mapping[str, Any]) -> dict[str, Any]:
    picture, width, height = _picture(record["image"]["bytes"])
    scale = (width / record["width"], height / record["height"])
    regions = record["regions"] or []
    texts = [region for region in regions if region["kind"] in WRITING]
    return {
        **{name: record[name] for name in ("id", "source", "license", "split", "global_caption", "captioner")},
        "size": (record["width"], record["height"]),
        "picture": picture,
        "shown": (width, height),
        "things": _things([region for region in regions if region["kind"] == "object"], scale, (width, height)),
        "lines": [(_box(region, scale), region) for region in _lines(texts)],
        "words": sum(region["label"] == "word" for region in texts),
        "captions": [one for one in record.get("captions") or [] if one["text"] != record["global_caption"]],
        "qa": record["qa"] or [],
        "provenance": record.get("provenance") or NOT_SAID,
    }


def _picture(encoded: bytes) -> tuple[str, int, int]:
    """A data URL of the picture, and the size at which it is shown."""
    image = open_rgb(encoded, ANY_SIZE)
    longer = max(image.size)
    if longer > LONG_SIDE:
        image.thumbnail((LONG_SIDE, LONG_SIDE), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    image.save(content, "JPEG", quality=80, optimize=True)
    larger = max(1.0, SMALL_SIDE / longer)
    url = "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()
    return url, round(image.width * larger), round(image.height * larger)


def _lines(texts: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """What is drawn and listed of the texts: the lines where there are lines, else everything."""
    return text_lines(texts) or list(texts)


def _box(region: Mapping[str, Any], scale: tuple[float, float]) -> Box:
    x1, y1, x2, y2 = region["bbox"]
    x, y = x1 * scale[0], y1 * scale[1]
    hint = region["caption"] or region["text"] or region["label"]
    return Box(round(x, 1), round(y, 1), round(x2 * scale[0] - x, 1), round(y2 * scale[1] - y, 1), hint)


def _things(regions: Sequence[Mapping[str, Any]], scale: tuple[float, float], size: tuple[int, int]) -> list[Thing]:
    things: list[Thing] = []
    taken: list[tuple[float, float]] = []
    for number, region in enumerate(regions, 1):
        box = _box(region, scale)
        chip = _free_place(box, taken, size)
        taken.append(chip)
        things.append(Thing(number, COLORS[(number - 1) % len(COLORS)], box, chip, region))
    return things


def _free_place(box: Box, taken: Sequence[tuple[float, float]], size: tuple[int, int]) -> tuple[float, float]:
    """The corner of a box, or the next place along its upper and left edge, where no other number stands."""
    width, height = CHIP
    x0 = min(max(box.x, 0.0), size[0] - width)
    y0 = min(max(box.y, 0.0), size[1] - height)
    along = [(x0 + step * width, y0) for step in range(max(1, int(box.width // width)))]
    down = [(x0, y0 + step * height) for step in range(max(1, int(box.height // height)))]
    for x, y in along + down:
        inside = x + width <= size[0] and y + height <= size[1]
        if inside and all(abs(x - a) >= width or abs(y - b) >= height for a, b in taken):
            return x, y
    return x0, y0
