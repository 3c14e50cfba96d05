"""The caption engine's ingest against a bare decode of the same files, and its search for duplicates in little memory.

    python -m benchmarks.engine.ingest                    # 120 pictures, and 1,000,000 hashes under 512 MB
    python -m benchmarks.engine.ingest --pictures 40 --hashes 0

Pictures are crops and enlargements of photographs that scikit-image and scikit-learn ship, 0.3 to 3 megapixels, nine
in ten as JPEG (quality 90), the rest as PNG. In turns within one process: Pillow's decode to RGB alone (`bare`), the
ingest pass over bytes in memory (`ingest`: decode check, two hashes, EXIF), and a shard from its files to the
committed parquet file (`shard`). All of it uses one core. On a machine that others use too, compare CPU seconds.

The duplicates: random perceptual hashes, two in a hundred with a planted neighbour of at most 15 bits, searched for in
a process of its own whose peak memory is read from the operating system.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import statistics
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.measuring import add_out, conditions, progress, timed, write_figures
from finecap.engine.contract import Context
from finecap.engine.passes import dedup, ingest
from finecap.engine.recipe import recipe_from
from finecap.engine.running.journal import Journal
from finecap.engine.running.one_shard import Run, run_shard
from finecap.engine.running.store import Store
from finecap.pictures import encoded
from finecap.shards.plan import plan_shards

RECIPE = {"ingest": {"source": "scikit-image", "license": "see package"}}
PACKAGES = ("pillow", "imagehash", "pyarrow", "duckdb")
HASHES_PER_SHARD = 50_000
PLANTED_SHARE = 0.02


def photographs() -> list[Image.Image]:
    import skimage
    import sklearn.datasets

    names = (
        "astronaut.png",
        "chelsea.png",
        "coffee.png",
        "hubble_deep_field.jpg",
        "motorcycle_left.png",
        "rocket.jpg",
    )
    paths = [Path(skimage.__file__).parent / "data" / name for name in names]
    paths += sorted((Path(sklearn.datasets.__file__).parent / "images").glob("*.jpg"))
    return [Image.open(path).convert("RGB") for path in paths]


def write_pictures(folder: Path, count: int, seed: int) -> list[Path]:
    rng, originals = np.random.default_rng(seed), photographs()
    for number in range(count):
        picture = originals[number % len(originals)]
        width, height = (int(side * rng.uniform(0.6, 1.0)) for side in picture.size)
        left, top = int(rng.integers(picture.width - width + 1)), int(rng.integers(picture.height - height + 1))
        scale = np.sqrt(rng.uniform(0.3e6, 3e6) / (width * height))
        size = round(width * scale), round(height * scale)
        picture = picture.crop((left, top, left + width, top + height)).resize(size, Image.Resampling.BICUBIC)
        name, data = f"{number:04d}.jpg", encoded(picture, "JPEG", quality=90)
        if number % 10 == 9:
            name, data = f"{number:04d}.png", encoded(picture, "PNG")
        (folder / name).write_bytes(data)
    return sorted(folder.iterdir())


def bare(contents: list[bytes]) -> None:
    for data in contents:
        Image.open(io.BytesIO(data)).convert("RGB")


def ingest_pass(contents: list[bytes], scratch: Path) -> None:
    recipe = recipe_from(RECIPE)
    context = Context("shard", recipe.settings, Journal(scratch / "journal"), None, scratch, {})
    rows = ({"key": str(number), "bytes": data, "url": None} for number, data in enumerate(contents))
    assert all(row["reject"] is None for row in ingest.run(rows, recipe.passes["ingest"], context))


def whole_shard(folder: Path, scratch: Path, count: int) -> None:
    with tempfile.TemporaryDirectory(dir=scratch) as out:
        run = Run(recipe_from(RECIPE), Store(Path(out)), tuple(plan_shards(folder, count)))
        stats = run_shard(run, "ingest", run.shards[0], {})
        assert stats is not None
        assert (stats.rows, stats.rejects) == (count, {})


def measure(steps: Mapping[str, Callable[[], None]], repeats: int) -> dict[str, dict[str, list[float]]]:
    """Wall-clock and CPU seconds of each step, in turns after one warm-up."""
    seconds: dict[str, dict[str, list[float]]] = {name: {"wall_s": [], "cpu_s": []} for name in steps}
    for repeat in range(repeats + 1):
        for name, step in steps.items():
            took = timed(step)
            progress(f"turn {repeat} of {repeats}{'' if repeat else ' (warm-up)'}, {name}: {took.wall:.1f} s")
            if repeat:
                seconds[name]["wall_s"].append(took.wall)
                seconds[name]["cpu_s"].append(took.cpu)
    return seconds


def decoding(args: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder, scratch = Path(name, "pictures"), Path(name, "scratch")
        folder.mkdir()
        scratch.mkdir()
        paths = write_pictures(folder, args.pictures, args.seed)
        contents = [path.read_bytes() for path in paths]
        progress(f"{len(paths)} pictures are written")
        steps = {
            "bare": lambda: bare(contents),
            "ingest": lambda: ingest_pass(contents, scratch),
            "shard": lambda: whole_shard(folder, scratch, len(contents)),
        }
        seconds = measure(steps, args.repeats)
        pixels = [Image.open(path).width * Image.open(path).height for path in paths]
    rates = {name: len(contents) / statistics.median(runs["cpu_s"]) for name, runs in seconds.items()}
    shares = {
        name: [bare / own for bare, own in zip(seconds["bare"]["cpu_s"], seconds[name]["cpu_s"], strict=True)]
        for name in ("ingest", "shard")
    }
    return {
        "pictures": {"count": len(contents), "bytes": sum(map(len, contents)), "megapixels": sum(pixels) / 1e6},
        "images_per_cpu_second": rates,
        "speed_as_share_of_bare_decode": {name: statistics.median(runs) for name, runs in shares.items()},
        "spread_of_shares": {name: [min(runs), max(runs)] for name, runs in shares.items()},
        "seconds": seconds,
    }


def write_hashes(folder: Path, count: int, seed: int) -> tuple[dict[str, list[Path]], int]:
    """Outputs of ingest and filter with planted near duplicates, and how many of those there are."""
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 256, (count, 32), dtype=np.uint8)
    planted = rng.choice(np.arange(count // 2, count), int(PLANTED_SHARE * count), replace=False)
    for row in planted:
        bits = np.unpackbits(hashes[rng.integers(count // 2)])
        bits[rng.choice(256, rng.integers(0, 16), replace=False)] ^= 1
        hashes[row] = np.packbits(bits)
    outputs: dict[str, list[Path]] = {"ingest": [], "filter": []}
    for at in range(0, count, HASHES_PER_SHARD):
        keys = [f"k{row}" for row in range(at, min(at + HASHES_PER_SHARD, count))]
        nothing = pa.nulls(len(keys), pa.string())
        phash = pa.array([row.tobytes() for row in hashes[at : at + len(keys)]], pa.binary(32))
        sha256 = [f"{row:064x}" for row in range(at, at + len(keys))]
        tables = {
            "ingest": {"key": keys, "reject": nothing, "sha256": sha256, "phash": phash},
            "filter": {"key": keys, "reject": nothing, "branch": ["photo"] * len(keys)},
        }
        for name, columns in tables.items():
            path = folder / name / f"{at:09d}.parquet"
            path.parent.mkdir(exist_ok=True)
            pq.write_table(pa.table(columns), path)
            outputs[name].append(path)
    return outputs, len(planted)


def _peak_rss_mb() -> float:
    """Of this process; `getrusage` would begin with that of the parent."""
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line.split()[1] for line in status if line.startswith("VmHWM:"))) / 1024


def _search(outputs: dict[str, list[Path]], memory: str, out: Path, pipe: Any) -> None:
    before = _peak_rss_mb()
    took = timed(lambda: dedup.reduce(outputs, dedup.Options(memory=memory), out))
    pipe.send({"wall_s": took.wall, "cpu_s": took.cpu, "peak_rss_mb": _peak_rss_mb(), "peak_rss_before_mb": before})


def duplicates(count: int, memory: str, seed: int = 0) -> dict[str, Any]:
    """Search `count` synthetic hashes in a process of its own.

    Raises:
        AssertionError: a planted duplicate was missed.
    """
    with tempfile.TemporaryDirectory() as name:
        outputs, planted = write_hashes(Path(name), count, seed)
        progress(f"{count} hashes are written, {planted} of them near duplicates; searching")
        out = Path(name, "dedup", "reduced.parquet")
        out.parent.mkdir()
        ours, theirs = multiprocessing.get_context("spawn").Pipe()
        process = multiprocessing.get_context("spawn").Process(target=_search, args=(outputs, memory, out, theirs))
        process.start()
        theirs.close()
        measured = ours.recv()
        process.join()
        found = json.loads(pq.read_metadata(out).metadata[b"dedup"])
    assert found["near"] == planted, (found, planted)
    return {"hashes": count, "planted": planted, "duckdb_memory": memory, "found": found, **measured}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=120)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--hashes", type=int, default=1_000_000, help="0 leaves the duplicates out")
    parser.add_argument("--memory", default="512MB", help="what DuckDB may use")
    parser.add_argument("--seed", type=int, default=0)
    add_out(parser, "engine_ingest")
    args = parser.parse_args(argv)
    report: dict[str, Any] = conditions(PACKAGES)
    report["setting"] = {"pictures": args.pictures, "repeats": args.repeats, "seed": args.seed}
    report["ingest"] = decoding(args)
    if args.hashes:
        report["duplicates"] = duplicates(args.hashes, args.memory, args.seed)
    write_figures(report, args.out)
    shown = {name: value for name, value in report["ingest"].items() if name != "seconds"}
    print(json.dumps({"ingest": shown, "duplicates": report.get("duplicates")}, indent=2))


if __name__ == "__main__":
    main()
