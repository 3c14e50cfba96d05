"""What all benchmarks share: lines of progress, seconds, where results go, and what a figure was measured with."""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from finecap.files import write_text
from finecap.made_with import made_with

START = time.monotonic()


class Seconds(NamedTuple):
    """Of one call: by the clock on the wall, and of this process's processor time."""

    wall: float
    cpu: float


def progress(text: str) -> None:
    """Say on stderr what is being done, with the seconds since the start."""
    print(f"[{time.monotonic() - START:5.0f} s] {text}", file=sys.stderr, flush=True)


def timed(action: Callable[[], Any]) -> Seconds:
    """How long one call took."""
    start, cpu_start = time.perf_counter(), time.process_time()
    action()
    return Seconds(time.perf_counter() - start, time.process_time() - cpu_start)


def conditions(packages: Iterable[str]) -> dict[str, Any]:
    """What a figure was measured with; the load says whether the machine was used by others too."""
    return {**made_with(packages), "load_average": os.getloadavg()[0]}


def add_out(parser: argparse.ArgumentParser, name: str) -> None:
    """Add `--out`; a figure that is worth keeping is written to benchmarks/results/ by naming it."""
    default = Path("outputs/benchmarks") / f"{name}.json"
    parser.add_argument("--out", type=Path, default=default, help=f"where the figures go (JSON); {default} by default")


def write_figures(report: dict[str, Any], out: Path) -> None:
    """Write the figures of a benchmark and say where they are."""
    write_text(out, json.dumps(report, indent=2) + "\n")
    progress(f"{out} is written")
