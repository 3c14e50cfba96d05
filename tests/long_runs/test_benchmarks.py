"""Benchmarks that train, at their smallest."""

import pytest

from tests.support.benchmarks import benchmarked

SMALLEST = {
    "training.plan": ["--records", "5000", "--pictures", "4", "--rows", "40", "--steps", "6"],
    "training.trl": ["--pictures", "6", "--edge", "112", "--max-length", "1024", "--turns", "1"],
}


@pytest.mark.parametrize("script", SMALLEST)
def test_a_benchmark_that_trains_reports_and_leaves_its_figures(script, tmp_path):
    done, _ = benchmarked(script, SMALLEST[script], tmp_path / "figures.json")
    assert [line for line in done.stderr.splitlines() if "turn 1 of" in line]
