"""The caption engine against the least that could do the work, in one run.

    python -m benchmarks.engine.captions            # a few rows of everything, to see where it stands
    python -m benchmarks.engine.captions --long     # the published figures: some nine minutes on two cores

1. recaption: rows/s of the pass, committed and journalled, against a bare asyncio + aiohttp loop that decodes, scales,
   encodes and posts the same pictures in the same way to the same server, in turns (goal: at least 95 %);
2. clients: CPU-ms per request by HTTP library (clients.py);
3. workers: one, two and four local workers, waiting for a server and decoding pictures; and the same tasks on Ray;
4. million: status, balance and dedup over a million rows (synthetic.py), seconds and peak memory.

The fake captioner runs in its own process on the same cores. Ingest against a bare decode is ingest.py. On a machine
that others use too wall-clock says little, so CPU time stands beside it.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.engine import clients, synthetic
from benchmarks.engine.bare import bare_loop
from benchmarks.engine.server import served
from benchmarks.measuring import add_out, conditions, progress, timed, write_figures
from finecap.engine.recipe import recipe_from
from finecap.engine.running.executors.local import run_locally
from finecap.engine.running.one_shard import Run, read_stats, run_shard
from finecap.engine.running.opening import open_run

PHOTOGRAPHS = ("astronaut", "cat", "coffee", "rocket", "immunohistochemistry", "retina")
# Width and height of the pictures, and the longer side that a captioner gets.
SIZE, MAX_SIDE = (640, 480), 448
PACKAGES = ("aiohttp", "duckdb", "pillow", "pyarrow", "ray")
IN_FLIGHT = 64
WORKERS_SHARD = 16
PASSES_BEFORE = ("ingest", "filter", "dedup")
# Every picture passes: what is measured is the engine, not the filter.
OPEN_FILTER = {"min_sharpness": 0, "min_luminance": 0, "max_luminance": 1, "max_dark": 1, "max_bright": 1}


def write_pictures(folder: Path, count: int, seed: int = 0) -> None:
    """JPEGs cut out of real photographs, each one of its own."""
    import numpy as np
    from PIL import Image
    from skimage import data as photographs

    folder.mkdir(parents=True)
    draw = np.random.default_rng(seed)
    sources = [Image.fromarray(getattr(photographs, name)()).convert("RGB") for name in PHOTOGRAPHS]
    for number in range(count):
        source = sources[number % len(sources)]
        side = draw.uniform(0.5, 0.9) * min(source.size)
        x, y = (draw.uniform(0, length - side) for length in source.size)
        picture = source.resize(SIZE, Image.Resampling.BICUBIC, box=(x, y, x + side, y + side))
        picture.save(folder / f"{number:05d}.jpg", quality=90)


def begin(folder: Path, name: str, server: str, rows_per_shard: int, in_flight: int = IN_FLIGHT) -> Run:
    """A run over the pictures in `folder`/in, with one caption a picture."""
    recipe = {
        "seed": 1,
        "rows_per_shard": rows_per_shard,
        "ingest": {"source": "scikit-image", "license": "see its documentation"},
        "filter": OPEN_FILTER,
        "dedup": {"max_distance": 0},
        "recaption": {"styles": ["dense"], "max_side": MAX_SIDE, "in_flight": in_flight},
        "captioners": [{"name": "fake", "model": "fake", "endpoints": [server]}],
    }
    return open_run(recipe_from(recipe), folder / "in", folder / name)


def recaption(folder: Path, latency_ms: float, repeats: int) -> dict[str, Any]:
    """The recaption pass over one shard and the bare loop over the same pictures, in turns."""
    models: dict[str, Any] = {}
    turns: list[dict[str, Any]] = []
    with served(latency_ms) as server:
        run = begin(folder, f"recaption-{latency_ms:g}", server, rows_per_shard=10**6)
        finish(run, run_locally(run, 1, only=PASSES_BEFORE), PASSES_BEFORE)
        shard, output = run.shards[0], run.output("recaption", run.shards[0].name)
        pictures = run.output("ingest", shard.name)
        both = {
            "engine": lambda: run_shard(run, "recaption", shard, models),
            "bare": lambda: bare_loop(pictures, server, IN_FLIGHT, MAX_SIDE, folder / "bare.parquet"),
        }
        for turn in range(repeats + 1):  # the first one opens connections and fills caches
            output.unlink(missing_ok=True)
            names = list(both) if turn % 2 else list(both)[::-1]
            seconds = {name: timed(both[name]) for name in names}
            turns.append({name: {"wall_s": took.wall, "cpu_s": took.cpu} for name, took in seconds.items()})
            said = ", ".join(f"{name} {took.wall:.1f} s" for name, took in seconds.items())
            progress(f"recaption at {latency_ms:g} ms, turn {turn + 1} of {repeats + 1}: {said}")
        del turns[0]
    rows = read_stats(output).rows
    return {
        "setting": {"latency_ms": latency_ms, "rows": rows, "turns": repeats, "in_flight": IN_FLIGHT}
        | {"picture": SIZE, "max_side": MAX_SIDE},
        "engine_rows_per_s": rows / middle(turn["engine"]["wall_s"] for turn in turns),
        "bare_rows_per_s": rows / middle(turn["bare"]["wall_s"] for turn in turns),
        "share_of_bare": middle(turn["bare"]["wall_s"] / turn["engine"]["wall_s"] for turn in turns),
        "share_of_bare_by_cpu_time": middle(turn["bare"]["cpu_s"] / turn["engine"]["cpu_s"] for turn in turns),
        "turns": turns,
    }


def workers(folder: Path, counts: tuple[int, ...], latency_ms: float) -> dict[str, Any]:
    """Wall-clock of the same tasks by one, two and four local workers, and on Ray with two CPUs."""
    found: dict[str, Any] = {"setting": {"latency_ms": latency_ms, "in_flight": 2, "shard": WORKERS_SHARD}}
    with served(latency_ms) as server:
        found["local"] = {count: _tasks(folder, f"local-{count}", server, run_locally, count) for count in counts}
        with ray_of(2) as (run_on_ray, seconds):
            found["ray"] = {2: _tasks(folder, "ray-2", server, run_on_ray, 2)}
            found["ray_start_s"] = seconds
    return found


def _tasks(folder: Path, name: str, server: str, carry_out: Callable[..., Any], count: int) -> dict[str, Any]:
    run = begin(folder, name, server, rows_per_shard=WORKERS_SHARD, in_flight=2)
    only = {"ingest (cores)": ("ingest",), "filter, dedup": ("filter", "dedup"), "recaption (waiting)": ("recaption",)}
    found = {}
    for kind, passes in only.items():
        found[kind] = paced(run, carry_out, count, passes)
        progress(f"{name}, {kind}: {found[kind]['wall_s']:.1f} s")
    return found


@contextmanager
def ray_of(cpus: int) -> Generator[tuple[Callable[..., Any], float]]:
    """A Ray of this machine for several runs; yields the executor and how long Ray took to start."""
    import ray

    from finecap.engine.running.executors.ray import run_on_ray

    start = time.perf_counter()
    ray.init(address="local", num_cpus=cpus, include_dashboard=False, logging_level=logging.ERROR)
    try:
        yield run_on_ray, time.perf_counter() - start
    finally:
        ray.shutdown()


def paced(run: Run, carry_out: Callable[..., Any], count: int, only: tuple[str, ...]) -> dict[str, float]:
    """Seconds in all, until the first shard was done (processes start, libraries load), and rows/s once every worker
    had done one.
    """
    done: list[tuple[float, int]] = []
    start = time.perf_counter()

    def report(schedule: Any, stats: Any) -> None:
        if stats is not None:
            done.append((time.perf_counter() - start, stats.rows))

    finish(run, carry_out(run, count, only=only, report=report), only)
    total = time.perf_counter() - start
    rows = sum(count for _, count in done[count:])
    return {
        "wall_s": total,
        "until_first_s": done[0][0],
        "rows_per_s_after_start": rows / (done[-1][0] - done[count - 1][0]),
    }


def million(folder: Path, shards: int, rows: int) -> dict[str, Any]:
    """A large collection and one a tenth of its size: what grows with it, and what does not."""
    found: dict[str, Any] = {}
    for name, count in (("tenth", max(1, shards // 10)), ("whole", shards)):
        start = time.perf_counter()
        out = synthetic.build(folder / name, count, rows, os.cpu_count() or 1)
        seconds = time.perf_counter() - start
        found[name] = {"rows": count * rows, "shards": count, "written_in_s": seconds}
        progress(f"{count * rows} rows written in {seconds:.0f} s")
        found[name] |= synthetic.measure(out)
        shutil.rmtree(folder / name)
    return found


def finish(run: Run, schedule: Any, only: tuple[str, ...]) -> None:
    if schedule.set_aside or schedule.left:
        raise RuntimeError(f"{run.store.out}: {only} failed: {schedule.set_aside or 'tasks were left'}")


def middle(values: Any) -> float:
    return statistics.median(values)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--long", action="store_true", help="as many rows and turns as the published figures")
    parser.add_argument("--only", nargs="+", choices=("recaption", "clients", "workers", "million"))
    parser.add_argument("--repeats", type=int, help="turns of engine and bare loop; 2, and 16 with --long")
    add_out(parser, "engine_captions")
    args = parser.parse_args(argv)
    args.only = args.only or ["recaption", "clients", "workers", "million"]
    args.repeats = args.repeats or (16 if args.long else 2)
    return args


def main(argv: list[str] | None = None) -> dict[str, Any]:
    args = parse_args(argv)
    report: dict[str, Any] = conditions(PACKAGES)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_pictures(folder / "in", 512 if args.long else 48)
        progress("pictures are written")
        if "recaption" in args.only:
            report["recaption"] = {f"{ms} ms": recaption(folder, ms, args.repeats) for ms in (50, 10)}
        if "clients" in args.only:
            report["clients"] = clients.compare(*((640, 3) if args.long else (64, 1)))
        if "workers" in args.only:
            report["workers"] = workers(folder, (1, 2, 4) if args.long else (1, 2), latency_ms=200)
        if "million" in args.only:
            report["million"] = million(folder, 1000 if args.long else 10, 1000 if args.long else 100)
    report["load_average_after"] = os.getloadavg()[0]
    write_figures(report, args.out)
    show(report)
    return report


def show(report: dict[str, Any]) -> None:
    for name, found in report.get("recaption", {}).items():
        shares = f"{found['share_of_bare']:.1%} of bare, {found['share_of_bare_by_cpu_time']:.1%} by CPU time"
        rates = f"engine {found['engine_rows_per_s']:.0f} rows/s, bare {found['bare_rows_per_s']:.0f} rows/s"
        print(f"recaption, {name}: {rates}: {shares}")
    if "clients" in report:
        clients.show(report["clients"])
    for kind in ("local", "ray"):
        for count, passes in report.get("workers", {}).get(kind, {}).items():
            for name, pace in passes.items():
                rate = f"{pace['rows_per_s_after_start']:.0f} rows/s after {pace['until_first_s']:.1f} s"
                print(f"{count} {kind} workers, {name}: {pace['wall_s']:.1f} s, {rate}")
    for found in report.get("million", {}).values():
        for program in synthetic.PROGRAMS:
            figures = f"{found[program]['seconds']:.1f} s, {found[program]['peak_rss_mb']:.0f} MB"
            print(f"{found['rows']} rows, {program}: {figures}")


if __name__ == "__main__":
    main()
