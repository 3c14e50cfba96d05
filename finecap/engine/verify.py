"""Pass 10: are the captions and texts true? Beyond the paper, which verifies nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import ClassVar

import pyarrow as pa
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from finecap.engine.passes import Context, Row

COLUMNS = pa.schema(
    [
        (
            "verdicts",
            pa.list_(
                pa.struct(
                    [
                        ("object", pa.int32()),  # index into `objects`
                        ("verified", pa.bool_()),
                        ("iou", pa.float32()),
                        ("reason", pa.string()),
                    ]
                )
            ),
        ),
        ("checks", pa.list_(pa.string())),  # what was looked at: "regrounded", "numbers", "quotes", "read back", ...
        ("flags", pa.list_(pa.string())),  # what was found: "number 12 not in OCR", ...
    ]
)


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Options:
    """Attributes:
    min_iou: a local caption is kept if grounding it again hits its box at least so well.
    read_back_share: share of the images whose OCR the captioner reads back.
    """

    CAPTIONS: ClassVar[bool] = True
    min_iou: float = 0.5
    read_back_share: float = 0.05
    in_flight: int = 32


def run(rows: Iterator[Row], options: Options, context: Context) -> Iterable[Row]:
    raise NotImplementedError
