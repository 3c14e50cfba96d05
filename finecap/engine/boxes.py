"""Pass 6: boxes of the phrases by an open-vocabulary detector."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyarrow as pa
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from finecap.engine.passes import Context, Row

COLUMNS = pa.schema(
    [
        (
            "objects",
            pa.list_(
                pa.struct(
                    [
                        ("bbox", pa.list_(pa.float32(), 4)),  # x1, y1, x2, y2 in pixels
                        ("label", pa.string()),
                        ("phrase", pa.string()),
                        ("score", pa.float32()),
                    ]
                )
            ),
        ),
        ("detector", pa.string()),
    ]
)


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Options:
    """Attributes:
    detector: folder of an AutoModelForZeroShotObjectDetection.
    url: of a detector that is served, in place of `detector`.
    min_score, nms_iou: FineViT.
    """

    detector: str | None = None
    url: str | None = None
    min_score: float = 0.3
    nms_iou: float = 0.7


def run(rows: Iterator[Row], options: Options, context: Context) -> Iterable[Row]:
    raise NotImplementedError
