"""Pass 7: class-balanced sampling of the boxes over the whole collection (FineViT, step 5 of its data pipeline).

Two passes: count the boxes of each class over all shards, then keep each box of a class with the same probability.
Whether a box is kept depends on the seed, its image and its number alone, so a sample is the same for any number of
shards and workers. The cap holds in expectation: of a class with n boxes and the rate r, n·r are kept with a standard
deviation of sqrt(n·r·(1-r)), less than 0.4 % of FineViT's cap.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from finecap.engine.contract import Context, Row
from finecap.engine.draws import uniform

COLUMNS = pa.schema([("kept_objects", pa.list_(pa.int32()))])  # indices into `objects`
# Files that are opened at once while counting, and what DuckDB may hold in memory before it spills to the disk.
FILES_AT_ONCE = 256
MEMORY_LIMIT = "256MB"


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Options:
    """How many boxes of a class are kept.

    Attributes:
        cap: boxes of a class that are kept at most, in expectation; FineViT caps at 100,000 a batch.
        whole_below: classes with fewer boxes are kept whole, whatever the cap; FineViT: 1,000.
    """

    cap: int = Field(default=100_000, ge=1)
    whole_below: int = Field(default=1000, ge=0)


def reduce(outputs: dict[str, list[Path]], options: Options, out: Path) -> None:
    """Count the boxes of each class over the whole collection.

    Args:
        outputs: under "boxes", the committed outputs of that pass.
        out: gets a parquet file with one row for each class, in alphabetical order: `label`, `count`, and `keep_rate`,
            the probability with which a box of this class is kept.
    """
    import duckdb

    # One name for all starts, so that what a killed one left goes; no two count at once.
    spill = out.with_name(".balance-spill")
    shutil.rmtree(spill, ignore_errors=True)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, spill, ignore_errors=True)
        config: dict[str, Any] = {"memory_limit": MEMORY_LIMIT, "temp_directory": str(spill)}
        config["preserve_insertion_order"] = False
        database = stack.enter_context(duckdb.connect(config=config))
        database.execute("CREATE TABLE part (label VARCHAR, count BIGINT)")
        for start in range(0, len(outputs["boxes"]), FILES_AT_ONCE):
            files = [str(path) for path in outputs["boxes"][start : start + FILES_AT_ONCE]]
            database.execute(
                "INSERT INTO part SELECT object.label, count(*) FROM "
                "(SELECT unnest(objects) AS object FROM read_parquet($1) WHERE reject IS NULL) GROUP BY 1",
                [files],
            )
        database.execute(
            "CREATE TABLE total AS SELECT label, sum(count)::BIGINT AS count, "
            "CASE WHEN sum(count) < $1 THEN 1 ELSE least(1, $2 / sum(count)) END::DOUBLE AS keep_rate "
            "FROM part GROUP BY label",
            [options.whole_below, float(options.cap)],
        )
        database.table("total").order("label").write_parquet(str(out), compression="zstd")


def run(rows: Iterator[Row], options: Options, context: Context) -> Iterable[Row]:
    """Choose the boxes of each image; needs what `reduce` counted. Counts "objects kept" and "objects dropped"."""
    rates = context.load(f"balance rates {context.reduced}", lambda: _head_rates(context.reduced))
    for row in rows:
        objects = row["objects"] or []
        kept = [
            number
            for number, item in enumerate(objects)
            if uniform(context.settings.seed, "balance", row["key"], number) < rates.get(item["label"], 1.0)
        ]
        context.counters["objects kept"] += len(kept)
        context.counters["objects dropped"] += len(objects) - len(kept)
        yield {"key": row["key"], "kept_objects": kept, "reject": None}


def _head_rates(path: Path | None) -> dict[str, float]:
    """The classes that are not kept whole: few, so that a worker holds them however many classes there are."""
    if path is None:
        raise RuntimeError("the balance pass ran before the classes of the whole collection were counted")
    table = pq.read_table(path, columns=["label", "keep_rate"], filters=[("keep_rate", "<", 1.0)])
    return dict(zip(table["label"].to_pylist(), table["keep_rate"].to_pylist(), strict=True))
