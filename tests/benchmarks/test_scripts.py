"""Benchmarks say what they are doing, end in time, and write down what their figures were measured with."""

import importlib
import re

import pytest

from tests.support.benchmarks import benchmarked
from tests.support.paths import ROOT

SMALLEST = {
    "encoder.towers": ["--size", "nano", "--layers", "1", "--threads", "1", "--repeats", "50", "--budget", "0"],
    "encoder.embedding": ["--size", "nano", "--pictures", "4", "--longest", "8", "--repeats", "1", "--threads", "1"],
    "training.attention": ["--lengths", "512", "--tokens", "512", "--repeats", "1", "--threads", "1"],
    "training.loader": ["--pictures", "4", "--edges", "112", "--repeats", "1"],
    "training.memory": ["--samples", "100"],
    "engine.clients": ["--requests", "8", "--repeats", "1"],
    "engine.ingest": ["--pictures", "3", "--repeats", "1", "--hashes", "2000"],
}


@pytest.mark.slow
@pytest.mark.parametrize("script", SMALLEST)
def test_a_benchmark_reports_and_leaves_its_figures(script, tmp_path):
    done, _ = benchmarked(script, SMALLEST[script], tmp_path / "deep" / "figures.json")
    assert [line for line in done.stderr.splitlines() if "turn 1 of" in line]


@pytest.mark.slow
def test_the_towers_end_with_their_budget(tmp_path):
    """Fifty turns were asked for; when the time is over after the first, there are no more."""
    done, figures = benchmarked("encoder.towers", SMALLEST["encoder.towers"], tmp_path / "figures.json")
    assert "0 s are over after 1 of 50 turns" in done.stderr
    assert len(figures["results"]["finevit"]["forward"]["wall_s"]) == 1


def test_the_functions_that_take_the_place_of_passes_are_where_the_benchmarks_say():
    texts = [path.read_text() for path in (ROOT / "benchmarks").rglob("*.py")]
    named = {match.groups() for text in texts for match in re.finditer(r'"([\w.]+\.[\w.]+):(\w+)"', text)}
    assert ("benchmarks.engine.quality_passes", "keep_all") in named
    for module, name in named:
        assert callable(getattr(importlib.import_module(module), name))
