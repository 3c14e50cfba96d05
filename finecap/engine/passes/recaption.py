"""Pass 4: global captions by an ensemble of captioners.

Which captioner an image gets, and which wording it is asked with, is drawn by weight from the recipe's seed and the
image's key, so that no single style dominates (FineViT, Stage II: three captioners mixed; null and duplicate captions
dropped). Refusals and repetition loops are dropped as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass as plain_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

import pyarrow as pa
from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from finecap.engine.captioners.ensemble import Captioner, draw_captioner
from finecap.engine.captioners.prompts import Templates, global_prompt, load_templates
from finecap.engine.contract import Context, Row
from finecap.engine.language.caption_checks import check_caption, normalised
from finecap.engine.running.concurrency import in_decoder, map_rows, rejected
from finecap.pictures import ANY_SIZE, BadPicture, open_rgb, scaled_jpeg

if TYPE_CHECKING:
    from finecap.engine.captioners.client import ChatClient

COLUMNS = pa.schema(
    [
        ("captions", pa.list_(pa.struct([("style", pa.string()), ("text", pa.string()), ("captioner", pa.string())]))),
        ("global_caption", pa.string()),
        ("captioner", pa.string()),
    ]
)
# The style that becomes the record's global caption.
GLOBAL = "dense"


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Options:
    """Which captions are asked for.

    Attributes:
        styles: captions made of each image; "dense" becomes the record's global caption.
        prompts: template file; None for the one that ships.
        max_side: longer pictures are scaled down for the captioner, pixels.
        in_flight: requests at once in each worker.
    """

    CAPTIONS: ClassVar[bool] = True
    styles: tuple[str, ...] = ("short", GLOBAL)
    prompts: Path | None = None
    max_side: int = Field(default=1344, ge=1)
    in_flight: int = Field(default=32, ge=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if GLOBAL not in self.styles or len(set(self.styles)) < len(self.styles):
            raise ValueError(f"styles must name {GLOBAL!r}, which becomes the global caption, and each style once")
        load_templates(self.prompts, self.styles)
        return self


def run(rows: Iterator[Row], options: Options, context: Context) -> Iterable[Row]:
    """See the module. An image without its dense caption is rejected, as "no caption: why" or with what the client
    says of the failed request. Another caption that cannot be used is left out and counted ("captions dropped: why").

    Raises:
        StopRun: no captioner can be asked any more.
    """
    from finecap.engine.captioners.client import chat_client

    templates = load_templates(options.prompts, options.styles)
    captioning = _Captioning(chat_client(context), templates, options, context)
    results = map_rows(captioning.captions, rows, options.in_flight, context, rejected)
    seen: set[str] = set()
    for result in results:
        if result["reject"] is None:
            _drop_duplicates(result, seen, context)
        yield result


@plain_dataclass
class _Captioning:
    client: ChatClient
    templates: Templates
    options: Options
    context: Context

    async def captions(self, row: Row) -> Row:
        """All captions of one image, one request after the other; the dense one first: without it none is needed."""
        key = row["key"]
        captioner = draw_captioner(self.context.settings.captioners, self.context.settings.seed, key)
        result: Row = {"key": key, "captions": [], "global_caption": None, "captioner": captioner.name, "reject": None}
        try:
            image = await in_decoder(self.context, _picture, row.pop("image"), self.options.max_side)
        except BadPicture as error:
            return {**result, "reject": str(error)}
        found: dict[str, str] = {}
        for style in sorted(self.options.styles, key=lambda name: name != GLOBAL):
            text, problem = await self._caption(row, style, captioner, image)
            if text is not None:
                found[style] = text
            elif style == GLOBAL:
                return {**result, "reject": problem}
        captions = [
            {"style": style, "text": found[style], "captioner": captioner.name}
            for style in self.options.styles
            if style in found
        ]
        return {**result, "captions": captions, "global_caption": found[GLOBAL]}

    async def _caption(
        self, row: Row, style: str, captioner: Captioner, image: bytes
    ) -> tuple[str, None] | tuple[None, str]:
        """One caption, or why there is none."""
        from finecap.engine.captioners.client import RequestRejected

        context, template = self.context, self.templates.styles[style]
        try:
            answer = await self.client.ask(
                captioner,
                global_prompt(self.templates, style, row["branch"], context.settings.seed, row["key"]),
                [image],
                key=f"{row['key']}|{style}",
                journal=context.journal,
                counters=context.counters,
                max_tokens=template.max_tokens,
                temperature=template.temperature,
            )
        except RequestRejected as error:
            context.counters["captions dropped: captioner failed"] += 1
            return None, str(error)
        checked = check_caption(answer.text, answer.finish_reason, template.max_tokens)
        context.counters.update(f"captions mended: {name}" for name in checked.mended)
        if checked.text is None:
            context.counters[f"captions dropped: {checked.problem}"] += 1
            return None, f"no caption: {checked.problem}"
        return checked.text, None


def _picture(data: bytes, max_side: int) -> bytes:
    return scaled_jpeg(open_rgb(data, ANY_SIZE), max_side)


def _drop_duplicates(result: Row, seen: set[str], context: Context) -> None:
    """A caption that an earlier image of the shard has is dropped; so is one that repeats the image's dense one."""
    kept = {}
    for caption in sorted(result["captions"], key=lambda one: one["style"] != GLOBAL):
        text = normalised(caption["text"])
        if text in seen:
            context.counters["captions dropped: duplicate"] += 1
        else:
            seen.add(text)
            kept[caption["style"]] = caption
    if GLOBAL not in kept:
        result |= {"captions": [], "global_caption": None, "reject": "no caption: duplicate"}
    else:
        result["captions"] = [caption for caption in result["captions"] if caption["style"] in kept]
