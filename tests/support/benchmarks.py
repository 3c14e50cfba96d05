"""Running a benchmark as a person does."""

import json
import subprocess
import sys

from tests.support.paths import ROOT


def benchmarked(script, arguments, out):
    """The finished process of a benchmark, and the figures in `out`, which say what they were made with."""
    command = [sys.executable, "-m", f"benchmarks.{script}", *arguments, "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    figures = json.loads(out.read_text())
    assert {"date", "command", "commit", "versions", "cpu", "cores", "load_average"} <= set(figures)
    assert done.stdout
    return done, figures
