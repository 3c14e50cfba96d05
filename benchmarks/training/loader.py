"""JPEG bytes to packed batches against a bare loop over the same pictures, on one core; and the share of real tokens.

    python -m benchmarks.training.loader                      # 96 pictures at two budgets of pixels, a minute
    python -m benchmarks.training.loader --pictures 400 --repeats 5

Three quarters are photographs (300 to 1600 pixels, JPEG quality 75 to 92), the rest pages of the corpus (level base).
In turns within one process, a thread each:

- `bare`: Pillow's decode, Pillow's bicubic resize to the same sizes, patches in float32; nothing else;
- `loader`: the whole path (parquet, drafts, plan, texts, pictures, collated rows) in this process;
- `worker`: the same with one loader process; its CPU time is counted with this process's.

`of_bare` is the share of the bare loop's pictures per CPU second: median over the turns, each against the bare loop of
its own turn. Wall-clock seconds are written too; where others use the machine they say little.
"""

import argparse
import io
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from benchmarks.measuring import add_out, conditions, progress, write_figures
from benchmarks.training.records import mixed_records, reader_of, write_records
from finecap.records import Record
from finevit_training.data.loader import PackedLoader, Shape
from finevit_training.data.reader import Reader
from finevit_vl import FineViTVLProcessor, build_qwen_tokenizer
from finevit_vl.processing_finevit_vl import set_pixel_budget
from modeling_finevit import FineViTImageProcessor, FineViTImageProcessorPil

PACKAGES = ("torch", "torchvision", "pillow", "numpy", "pyarrow", "transformers")
BACKENDS = {"torchvision": FineViTImageProcessor, "pil": FineViTImageProcessorPil}


class Took(NamedTuple):
    """Seconds of one pass over the pictures: wall-clock, and CPU of this process and of those that it waited for."""

    wall: float
    cpu: float


def took(action: Callable[[], Any]) -> Took:
    """As `measuring.timed`, with the loader processes that ended meanwhile."""
    start, cpu_start = time.perf_counter(), _cpu_seconds()
    action()
    return Took(time.perf_counter() - start, _cpu_seconds() - cpu_start)


def _cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def bare(pictures: list[bytes], processor: Any) -> int:
    """Patches of all pictures, made as a loop of a few lines makes them."""
    unit, patch, channels = processor.patch_size * processor.merge_size, processor.patch_size, 3
    mean = np.repeat(np.array(processor.image_mean, np.float32) * 255, patch**2)
    factor = np.repeat(1 / (255 * np.array(processor.image_std, np.float32)), patch**2)
    total = 0
    for data in pictures:
        image = Image.open(io.BytesIO(data)).convert("RGB")
        height, width = processor.resized_size(image.height, image.width)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        blocks = np.asarray(image).reshape(height // unit, 2, patch, width // unit, 2, patch, channels)
        patches = blocks.transpose(0, 3, 1, 4, 6, 2, 5).reshape(-1, channels * patch**2).astype(np.float32)
        patches -= mean
        patches *= factor
        total += len(patches)
    return total


class Totals(NamedTuple):
    """Of one epoch: samples, patches, and tokens that are real or padding."""

    samples: int
    patches: int
    real: int
    tokens: int


def epoch(reader: Reader, args: argparse.Namespace, workers: int = 0) -> Totals:
    """One pass over the data as a training reads it."""
    shape = Shape(args.max_length, args.rows)
    totals = np.zeros(4, dtype=np.int64)
    for batch in PackedLoader(reader, shape, lambda key, step: 0.0, workers=workers):
        real = int(batch["lengths"].sum())
        totals += len(batch["ids"]), len(batch["pixel_values"]), real, batch["input_ids"].numel()
    return Totals(*totals.tolist())


def measure(records: list[Record], folder: Path, edge: int, args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of the contenders in turns, with pictures of at most `edge`² pixels."""
    image_processor = BACKENDS[args.backend]()
    processor = FineViTVLProcessor.from_vision_text_pretrained(image_processor, build_qwen_tokenizer(1024))
    set_pixel_budget(processor.image_processor, max_pixels=edge**2)
    pictures = [record["image"]["bytes"] for record in records]
    totals = epoch(reader_of(folder, processor, args.max_length, args.seed), args)
    patches = bare(pictures, image_processor)
    if (totals.samples, totals.patches) != (len(records), patches):
        raise ValueError(
            f"the contenders have different work: {totals} and {len(records)} pictures, {patches} patches"
        )
    contenders: dict[str, Callable[[], Any]] = {
        "bare": lambda: bare(pictures, image_processor),
        "loader": lambda: epoch(reader_of(folder, processor, args.max_length, args.seed), args),
        "worker": lambda: epoch(reader_of(folder, processor, args.max_length, args.seed), args, workers=1),
    }
    turns: dict[str, list[Took]] = {name: [] for name in contenders}
    for turn in range(args.repeats):
        for name, contender in contenders.items():
            turns[name].append(took(contender))
        said = ", ".join(f"{name} {spent[-1].cpu:.2f} s" for name, spent in turns.items())
        progress(f"{edge}² pixels, turn {turn + 1} of {args.repeats}, CPU: {said}")
    seconds = {name: {key: [getattr(t, key) for t in of] for key in Took._fields} for name, of in turns.items()}
    return {
        "max_pixels": edge**2,
        "samples": totals.samples,
        "patches": totals.patches,
        "share_of_real_tokens": totals.real / totals.tokens,
        "seconds": seconds,
        "of_bare": {
            name: summary([one / other for one, other in zip(seconds["bare"]["cpu"], of["cpu"], strict=True)])
            for name, of in seconds.items()
        },
    }


def summary(ratios: list[float]) -> dict[str, float]:
    return {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pictures", type=int, default=96)
    parser.add_argument("--edges", type=int, nargs="+", default=[448, 1008], help="most pixels: the squares of these")
    parser.add_argument("--backend", choices=list(BACKENDS), default="torchvision", help="of the image processor")
    parser.add_argument("--max-length", type=int, default=8192, help="tokens of a row")
    parser.add_argument("--rows", type=int, default=1, help="rows of a batch")
    parser.add_argument("--repeats", type=int, default=4, help="turns of the contenders")
    parser.add_argument("--seed", type=int, default=0)
    add_out(parser, "training_loader")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    args = parse_args(argv)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        records = mixed_records(args.pictures, args.seed)
        folder = write_records(records, Path(scratch, "records"))
        size = sum(len(record["image"]["bytes"]) for record in records)
        progress(f"{len(records)} pictures are made, {size / 1e6:.1f} MB")
        results = [measure(records, folder, edge, args) for edge in args.edges]
    setting = {key: str(value) for key, value in vars(args).items() if key != "out"}
    report = {**conditions(PACKAGES), "setting": setting, "bytes": size, "results": results}
    write_figures(report, args.out)
    for one in results:
        for name, ratio in one["of_bare"].items():
            speed = one["samples"] / statistics.median(one["seconds"][name]["cpu"])
            spread = f"{ratio['median']:.2f} of bare ({ratio['least']:.2f} to {ratio['most']:.2f})"
            print(f"{one['max_pixels']:>8} pixels  {name:7s}{speed:7.1f} pictures a CPU second, {spread}")
    return report


if __name__ == "__main__":
    main()
