"""Pass 11: FineCap records, in parquet with content-defined chunking."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyarrow as pa
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from finecap.engine.passes import Context, Row

COLUMNS = pa.schema([])  # the schema of the output is finecap.records.FINECAP_FEATURES


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Options:
    """Attributes:
    webdataset: write tar archives beside the parquet files.
    push_to_hub: dataset repository to upload to, after everything else.
    """

    webdataset: bool = False
    push_to_hub: str | None = None


def run(rows: Iterator[Row], options: Options, context: Context) -> Iterable[Row]:
    raise NotImplementedError
