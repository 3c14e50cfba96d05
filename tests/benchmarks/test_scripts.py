"""Benchmarks say what they are doing, end in time, and write down what their figures were measured with."""

import importlib
import json
import re
import subprocess
import sys

import pytest

from tests.support.paths import ROOT

SMALLEST = {
    "encoder.towers": ["--size", "nano", "--layers", "1", "--threads", "1", "--repeats", "50", "--budget", "0"],
    "training.attention": ["--lengths", "512", "--tokens", "512", "--repeats", "1", "--threads", "1"],
    "training.loader": ["--pictures", "4", "--edges", "112", "--repeats", "1"],
    "training.memory": ["--samples", "100"],
    "training.plan": ["--records", "5000", "--pictures", "4", "--rows", "40", "--steps", "6"],
    "training.trl": ["--pictures", "6", "--edge", "112", "--steps", "2", "--turns", "1"],
    "engine.clients": ["--requests", "8", "--repeats", "1"],
    "engine.ingest": ["--pictures", "3", "--repeats", "1", "--hashes", "2000"],
}


def run(script, *arguments):
    command = [sys.executable, "-m", f"benchmarks.{script}", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)


@pytest.mark.slow
@pytest.mark.parametrize("script", SMALLEST)
def test_a_benchmark_reports_and_leaves_its_figures(script, tmp_path):
    out = tmp_path / "deep" / "figures.json"
    done = run(script, *SMALLEST[script], "--out", str(out))
    figures = json.loads(out.read_text())
    assert {"date", "command", "commit", "versions", "cpu", "cores", "load_average"} <= set(figures)
    assert [line for line in done.stderr.splitlines() if "turn 1 of" in line]
    assert done.stdout


@pytest.mark.slow
def test_the_towers_end_with_their_budget(tmp_path):
    """Fifty turns were asked for; when the time is over after the first, there are no more."""
    out = tmp_path / "figures.json"
    done = run("encoder.towers", *SMALLEST["encoder.towers"], "--out", str(out))
    assert "0 s are over after 1 of 50 turns" in done.stderr
    assert len(json.loads(out.read_text())["results"]["finevit"]["forward"]["wall_s"]) == 1


def test_the_functions_that_take_the_place_of_passes_are_where_the_benchmarks_say():
    texts = [path.read_text() for path in (ROOT / "benchmarks").rglob("*.py")]
    named = {match.groups() for text in texts for match in re.finditer(r'"([\w.]+\.[\w.]+):(\w+)"', text)}
    assert ("benchmarks.engine.quality_passes", "keep_all") in named
    for module, name in named:
        assert callable(getattr(importlib.import_module(module), name))
