"""The whole ladder at its smallest: every run by the real scripts, every score, a report; and what a kill leaves."""

import json
import subprocess
import sys

import pytest
from safetensors.torch import load_file

from benchmarks.ladder.arms import arms
from benchmarks.ladder.claims import CLAIMS, TOO_SMALL
from benchmarks.ladder.sizes import SAVES, SIZES
from tests.support.paths import ROOT


def ladder(out, *more):
    command = [sys.executable, "-m", "benchmarks.ladder", "--size", "smoke", "--out", str(out), *more]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def tower(folder):
    """The encoder's weights in a model of any stage, by their names in it."""
    weights = load_file(folder / "model.safetensors")
    known = ("model.vision_tower.", "vision_model.")
    prefix = next((prefix for prefix in known if any(name.startswith(prefix) for name in weights)), "")
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def same(one, other):
    return one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)


@pytest.mark.slow
def test_the_smoke_ladder_trains_measures_and_judges_everything_and_goes_on_after_a_kill(tmp_path):
    killed = ladder(tmp_path, "--only", "II_after_I")
    assert any("II_after_I is trained" in line for line in killed.stderr)
    killed.kill()
    killed.wait()
    finished = tmp_path / "smoke" / "seed-0" / "I" / "receipt.json"
    before = finished.stat().st_mtime_ns

    whole = ladder(tmp_path)
    _, told = whole.communicate()
    assert whole.returncode == 0, told
    assert finished.stat().st_mtime_ns == before
    report = json.loads((tmp_path / "smoke.json").read_text())
    runs = report["runs"]["0"]
    assert set(runs) == set(arms(SIZES["smoke"]))
    assert all(run["scores"] for name, run in runs.items() if name.startswith(("II_", "sft_", "pages_")))
    assert [claim["verdict"] for claim in report["claims"]] == [TOO_SMALL] * len(CLAIMS)  # one seed
    spent = {name: run["trained"]["flops"] for name, run in runs.items()}
    more = spent["II_equal_flops"] - spent["II"] - spent["I"]  # that of less than SAVES steps, which is rounded up
    assert 0 < more < SAVES * 1.1 * spent["II"] / runs["II"]["trained"]["steps"]
    samples = {run["trained"]["samples"] for name, run in runs.items() if name.startswith("sft_")}
    assert len(samples) == 1  # every encoder is fine-tuned on the same
    own = tmp_path / "smoke" / "seed-0"
    for name, source in (("sft_I", "I"), ("sft_III_encoder", "III/encoder"), ("III_frozen", "II_after_I")):
        assert same(tower(own / name), tower(own / source))
    for name, source in (("III", "II_after_I"), ("pages_square", "I"), ("sft_I", "II")):  # trained, or another's
        assert not same(tower(own / name), tower(own / source))
    assert (tmp_path / "smoke_readings.png").stat().st_size > 10_000
    assert report["claims"][0]["text"] in (tmp_path / "smoke.md").read_text()

    again = ladder(tmp_path)  # nothing is left to do
    _, told = again.communicate()
    assert again.returncode == 0, told
    assert " is trained" not in told
    assert " is measured" not in told
