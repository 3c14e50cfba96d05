"""Pass 2: drop small, long, blurred, badly exposed and colourless pictures; documents take their own branch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyarrow as pa
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from finecap.engine.passes import Context, Row

COLUMNS = pa.schema([("branch", pa.string())])  # "photo" or "document"


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Options:
    """Thresholds. Attributes:
    min_short_side, min_aspect, max_aspect: FineViT, filter of FineCap-450M.
    """

    min_short_side: int = 448
    min_aspect: float = 1 / 3
    max_aspect: float = 3.0


def run(rows: Iterator[Row], options: Options, context: Context) -> Iterable[Row]:
    raise NotImplementedError
