"""Pass 8: captions of the kept boxes, from crop and full picture together (FineViT, steps 6 and 7 of its pipeline).

The captioner is told the box in numbers instead of seeing it drawn: nothing is painted over, and all boxes of a
picture share one encoded picture at the head of the request, which servers with a prefix cache read once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass as plain_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import pyarrow as pa
from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from finecap.engine.captioners.ensemble import draw_captioner
from finecap.engine.captioners.prompts import Templates, load_templates, local_prompt
from finecap.engine.contract import Context, Row
from finecap.engine.language.caption_checks import check_caption, words
from finecap.engine.reading.text_regions import is_text_region, texts_inside, with_read_quotations
from finecap.engine.running.concurrency import in_decoder, map_rows
from finecap.pictures import ANY_SIZE, BadPicture, open_rgb, scaled_jpeg

if TYPE_CHECKING:
    from finecap.engine.captioners.client import Answer, ChatClient

COLUMNS = pa.schema(
    [
        (
            "local_captions",
            pa.list_(
                pa.struct(
                    [
                        ("object", pa.int32()),  # index into `objects`
                        ("caption", pa.string()),
                        ("text", pa.string()),  # what OCR reads there, in place of the captioner's text
                        ("captioner", pa.string()),
                    ]
                )
            ),
        )
    ]
)
# Most characters that the captioner is told of the text in a box, of its phrase and of its label; and of the global
# caption.
LONGEST_TEXT = 1000
LONGEST_CAPTION = 4000


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Options:
    """Which captions are asked for, and kept.

    Attributes:
        min_tokens, max_tokens: length of a local caption in tokens of its captioner; FineViT's have a mean of 57.
        margin: of a crop around its box, as a share of the box's sides; the thing's surroundings tell what it is.
        min_crop: crops are at least this wide and high, in pixels, as far as the picture reaches.
        prompts, max_side, in_flight: as in `recaption`.
    """

    CAPTIONS: ClassVar[bool] = True
    min_tokens: int = Field(default=10, ge=1)
    max_tokens: int = Field(default=80, ge=1)
    margin: float = Field(default=0.1, ge=0)
    min_crop: int = Field(default=112, ge=1)
    prompts: Path | None = None
    max_side: int = Field(default=1344, ge=1)
    in_flight: int = Field(default=32, ge=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens {self.min_tokens} is above max_tokens {self.max_tokens}")
        load_templates(self.prompts, local=True)
        return self


@plain_dataclass
class _Views:
    """The pictures of one row for the captioner, encoded: the whole one, and the crop of each object."""

    whole: bytes
    crops: dict[int, bytes]


@plain_dataclass
class _Image:
    """What the objects of one row share. The picture is decoded once, by the first object that gets a place."""

    row: Row
    objects: list[int]
    views: asyncio.Task[_Views] | None = None


def run(rows: Iterator[Row], options: Options, context: Context) -> Iterable[Row]:
    """See the module. An object without a usable caption is left out and counted ("local captions dropped: why"),
    unless OCR read its text; no row is rejected for it, nor for an object on which this pass raises ("failed").
    `in_flight` counts requests, not rows.

    Raises:
        StopRun: no captioner can be asked any more.
    """
    from finecap.engine.captioners.client import chat_client

    captioning = _Captioning(chat_client(context), load_templates(options.prompts, local=True), options, context)
    keys: list[str] = []
    results = map_rows(captioning.caption, _objects(rows, keys), options.in_flight, context, captioning.failed)
    found: dict[str, list[Row]] = {key: [] for key in keys}
    for key, entry in results:
        if entry is not None:
            found[key].append(entry)
    for key in keys:
        yield {"key": key, "local_captions": found[key], "reject": None}


def _objects(rows: Iterator[Row], keys: list[str]) -> Iterator[Row]:
    """Each kept object of each row; notes the keys of the rows on the way."""
    for row in rows:
        keys.append(row["key"])
        kept = row["kept_objects"]
        image = _Image(row, list(range(len(row["objects"] or []))) if kept is None else list(kept))
        for number in image.objects:
            yield {"key": row["key"], "image": image, "object": number}


@plain_dataclass
class _Captioning:
    client: ChatClient
    templates: Templates
    options: Options
    context: Context

    async def caption(self, item: Row) -> tuple[str, Row | None]:
        """The key of the row and the entry for one object; None if there is nothing to say of it."""
        image, number = item["image"], item["object"]
        row = image.row
        thing = row["objects"][number]
        inside = texts_inside(thing["bbox"], row["texts"] or [])
        lines = [line["text"] for line in inside]
        captioner = draw_captioner(self.context.settings.captioners, self.context.settings.seed, row["key"])
        caption = await self._ask(image, number, lines)
        text = None
        if is_text_region(thing["label"], thing["bbox"], inside):
            text = "\n".join(lines)
            if caption is not None:
                caption, changed = with_read_quotations(caption, lines)
                self.context.counters["quotations replaced by OCR"] += changed
        if caption is None and text is None:
            return row["key"], None
        name = captioner.name if caption is not None else None
        return row["key"], {"object": number, "caption": caption, "text": text, "captioner": name}

    def failed(self, item: Row, reason: str) -> tuple[str, None]:
        """The result for an object on which `caption` raised."""
        return item["key"], self._dropped(reason.split(":")[0])

    async def _ask(self, image: _Image, number: int, lines: list[str]) -> str | None:
        from finecap.engine.captioners.client import RequestRejected

        row, settings, local = image.row, self.context.settings, self.templates.local
        assert local is not None
        key = f"{row['key']}|{number}"
        thing = row["objects"][number]
        texts = {
            "phrase": (thing["phrase"] or thing["label"])[:LONGEST_TEXT],
            "label": thing["label"][:LONGEST_TEXT],
            "caption": (row["global_caption"] or "")[:LONGEST_CAPTION],
            "texts": "\n".join(lines)[:LONGEST_TEXT],
        }
        try:
            size = row["width"], row["height"]
            prompt = local_prompt(self.templates, texts, thing["bbox"], size, settings.seed, key)
        except ValueError:
            return self._dropped("box cannot be written")
        try:
            views = await self._views(image)
            answer = await self.client.ask(
                draw_captioner(settings.captioners, settings.seed, row["key"]),
                prompt,
                [views.whole if name == "picture" else views.crops[number] for name in local.images],
                key=key,
                journal=self.context.journal,
                counters=self.context.counters,
                max_tokens=local.max_tokens,
                temperature=local.temperature,
            )
        except (BadPicture, RequestRejected) as error:
            return self._dropped(str(error).split(":")[0])
        checked = check_caption(answer.text, answer.finish_reason, local.max_tokens)
        self.context.counters.update(f"captions mended: {name}" for name in checked.mended)
        if checked.text is None:
            return self._dropped(checked.problem or "")
        length = token_count(checked.text, answer)
        if not self.options.min_tokens <= length <= self.options.max_tokens:
            return self._dropped("too short" if length < self.options.min_tokens else "too long")
        return checked.text

    def _dropped(self, why: str) -> None:
        self.context.counters[f"local captions dropped: {why}"] += 1

    async def _views(self, image: _Image) -> _Views:
        if image.views is None:
            encoding = in_decoder(self.context, _encoded, image.row, image.objects, self.options)
            image.views = asyncio.create_task(encoding)
        return await image.views


def _encoded(row: Row, objects: list[int], options: Options) -> _Views:
    picture = open_rgb(row.pop("image"), ANY_SIZE)
    crops = {
        number: scaled_jpeg(
            picture.crop(crop_box(row["objects"][number]["bbox"], picture.size, options)), options.max_side
        )
        for number in objects
    }
    return _Views(scaled_jpeg(picture, options.max_side), crops)


def token_count(text: str, answer: Answer) -> int:
    """Tokens of what is left of an answer: those that the server counted, less the share of words that were taken off
    (a preamble, thoughts).
    """
    return round(answer.completion_tokens * len(words(text)) / max(len(words(answer.text)), 1))


def crop_box(box: Any, size: tuple[int, int], options: Options) -> tuple[int, int, int, int]:
    """The part of a picture that is shown for a box: with a margin, not too small, inside the picture.

    Args:
        box: x1, y1, x2, y2 in pixels.
        size: width and height of the picture.

    Returns:
        Whole pixels, x2 and y2 exclusive, at least one pixel wide and high.
    """
    sides = []
    for low, high, length in ((box[0], box[2], size[0]), (box[1], box[3], size[1])):
        side = min(max((high - low) * (1 + 2 * options.margin), options.min_crop), length)
        start = min(max((low + high - side) / 2, 0), length - side)
        sides.append((int(start), max(min(-int(-(start + side) // 1), length), int(start) + 1)))
    (x1, x2), (y1, y2) = sides
    return x1, y1, x2, y2
