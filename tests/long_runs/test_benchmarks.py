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


def test_a_stage_is_measured_by_its_own_script_beside_its_dry_run(tmp_path):
    flags = ["--stages", "mim", "--kinds", "ragged", "--pictures", "2", "--steps", "1"]
    done, figures = benchmarked("training.stages", flags, tmp_path / "figures.json")
    (run,) = figures["runs"]
    assert run["mfu"] > 0
    assert 0 < run["teacher_share"] < 1
    assert 0 < run["planned_memory_gb"] < run["memory_gb"]  # on a CPU that of the whole process
    assert "MFU" in done.stdout
