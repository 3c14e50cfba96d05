"""Time and peak memory of counting classes: `python balance_million.py SHARD ...` prints boxes, seconds, MiB."""

import resource
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from finecap.engine.passes import balance, boxes


def write_million(folder, shards, boxes_per_image=5, images=200_000, classes=50_000):
    """Outputs of the boxes pass with a million boxes; labels follow a power law."""
    draw = np.random.default_rng(0)
    here = images // shards
    schema = pa.schema([("key", pa.string()), ("reject", pa.string()), *boxes.COLUMNS])
    paths = []
    for shard in range(shards):
        count = here * boxes_per_image
        labels = pa.array([f"class {rank}" for rank in (classes * draw.random(count) ** 4).astype(int)])
        bboxes = pa.FixedSizeListArray.from_arrays(pa.array(draw.random(count * 4, np.float32)), 4)
        scores = pa.array(draw.random(count, np.float32))
        objects = pa.StructArray.from_arrays([bboxes, labels, labels, scores], ["bbox", "label", "phrase", "score"])
        offsets = pa.array(np.arange(here + 1, dtype=np.int32) * boxes_per_image)
        columns = [
            pa.array([f"{shard}-{number}" for number in range(here)]),
            pa.nulls(here, pa.string()),
            pa.ListArray.from_arrays(offsets, objects),
            pa.array(["x"] * here),
        ]
        paths.append(folder / f"{shard}.parquet")
        pq.write_table(pa.Table.from_arrays(columns, schema=schema), paths[-1])
    return paths


def main():
    paths = [Path(path) for path in sys.argv[1:]]
    out = paths[0].with_name("reduced")
    start = time.perf_counter()
    balance.reduce({"boxes": paths}, balance.Options(), out)
    seconds = time.perf_counter() - start
    total = sum(pq.read_table(out)["count"].to_pylist())
    print(total, f"{seconds:.2f}", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


if __name__ == "__main__":
    main()
