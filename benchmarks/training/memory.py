"""Memory of a loader process while many samples go through it: it has to stay flat.

    python -m benchmarks.training.memory                      # 2,500 samples, a minute
    python -m benchmarks.training.memory --samples 50000      # a quarter of an hour

Row groups of a parquet file that are repeated until there are so many rows; pictures are small pieces of photographs,
so that many pass in little time. After 10 %, 50 % and 100 % of the samples: the loader process's resident memory, and
what of it is its own (without what it shares with this process).
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.engine.ingest import photographs
from benchmarks.measuring import add_out, conditions, progress, write_figures
from benchmarks.training.records import photograph_record, reader_of
from finecap.features import FINECAP_FEATURES
from finevit_training.data.loader import PackedLoader, Shape
from finevit_vl import FineViTVLProcessor, build_qwen_tokenizer
from modeling_finevit import FineViTImageProcessor

PACKAGES = ("torch", "pillow", "pyarrow", "psutil")
ROWS_OF_GROUP, GROUPS = 64, 4  # before they are repeated
SHARES = (0.1, 0.5, 1.0)
SIDES = (112, 224)  # of a picture in pixels


def write_repeated(folder: Path, samples: int, seed: int) -> Path:
    """A FineCap folder of at least so many rows."""
    originals = photographs()
    (folder / "data").mkdir(parents=True)
    groups = [
        [photograph_record(number, seed, originals, SIDES) for number in range(first, first + ROWS_OF_GROUP)]
        for first in range(0, GROUPS * ROWS_OF_GROUP, ROWS_OF_GROUP)
    ]
    schema = FINECAP_FEATURES.arrow_schema
    tables = [pa.Table.from_pylist(rows, schema=schema) for rows in groups]
    with pq.ParquetWriter(folder / "data" / "train-00000-of-00001.parquet", schema) as writer:
        for number in range(-(-samples // ROWS_OF_GROUP)):
            writer.write_table(tables[number % GROUPS])
    return folder


def worker_memory() -> dict[str, float]:
    """Megabytes of the only loader process."""
    found = [child.memory_full_info() for child in psutil.Process().children()]
    if len(found) != 1:
        raise RuntimeError(f"one loader process is expected, there are {len(found)}")
    return {"rss_mb": found[0].rss / 2**20, "own_mb": found[0].uss / 2**20}


def measure(folder: Path, args: argparse.Namespace) -> list[dict[str, float]]:
    processor = FineViTVLProcessor.from_vision_text_pretrained(FineViTImageProcessor(), build_qwen_tokenizer(1024))
    reader = reader_of(folder, processor, args.max_length, args.seed)
    loader = PackedLoader(reader, Shape(args.max_length, 1), lambda key, step: 0.0, epochs=2, workers=1)
    marks, seen, start = [max(1, int(share * args.samples)) for share in SHARES], 0, time.perf_counter()
    results: list[dict[str, float]] = []
    for batch in loader:
        seen += len(batch["ids"])
        if seen < marks[len(results)]:
            continue
        results.append({"samples": seen, "seconds": time.perf_counter() - start, **worker_memory()})
        last = results[-1]
        progress(
            f"turn {len(results)} of {len(marks)}: {seen:,} samples, {last['rss_mb']:.0f} MB resident, "
            f"{last['own_mb']:.0f} MB its own"
        )
        if len(results) == len(marks):
            return results
    raise RuntimeError(f"the data ended after {seen} samples")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--samples", type=int, default=2_500)
    parser.add_argument("--max-length", type=int, default=8192, help="tokens of a row, and of a batch")
    parser.add_argument("--seed", type=int, default=0)
    add_out(parser, "training_memory")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    args = parse_args(argv)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = write_repeated(Path(scratch, "records"), args.samples, args.seed)
        results = measure(folder, args)
    setting = {key: str(value) for key, value in vars(args).items() if key != "out"}
    report = {**conditions(PACKAGES), "setting": setting, "results": results}
    write_figures(report, args.out)
    for one in results:
        print(f"{one['samples']:>9,} samples: {one['rss_mb']:7.0f} MB resident, {one['own_mb']:7.0f} MB its own")
    return report


if __name__ == "__main__":
    main()
