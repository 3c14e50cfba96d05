"""Pass 8: captions of the kept boxes, from crop and full picture together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from finecap.engine.passes import Context, Row

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


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Options:
    """Attributes:
    min_tokens, max_tokens: length of a local caption in words; FineViT's have a mean of 57 tokens.
    prompts, max_side, in_flight: as in `recaption`.
    """

    CAPTIONS: ClassVar[bool] = True
    min_tokens: int = 10
    max_tokens: int = 80
    prompts: Path | None = None
    max_side: int = 1344
    in_flight: int = 32


def run(rows: Iterator[Row], options: Options, context: Context) -> Iterable[Row]:
    raise NotImplementedError
