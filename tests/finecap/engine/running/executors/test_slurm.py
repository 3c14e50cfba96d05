"""A run as a chain of Slurm jobs. Where there is no Slurm, `sbatch` is a stand-in: a program that really runs each
script it is given, once for each index of an array and only if the job it depends on went well, as Slurm would.
"""

import json
import os
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from finecap.engine.recipe import recipe_from
from finecap.engine.reporting.status import summarise
from finecap.engine.running.executors import slurm
from finecap.engine.running.executors.slurm import Stage, run_slurm_reduce, run_slurm_task, stages, submit, write_jobs
from finecap.engine.running.opening import open_run
from finecap.errors import StopRun
from tests.support.paths import ROOT

SBATCH = f"""#!{sys.executable}
import json, os, re, subprocess, sys
from pathlib import Path
log = Path(os.environ["STAND_IN_LOG"])
jobs = json.loads(log.read_text()) if log.exists() else []
waits = [a.split(":")[1] for a in sys.argv if a.startswith("--dependency=afterok:")]
script = sys.argv[-1]
assert sys.argv[1] == "--parsable" and Path(script).is_file()
array = re.search(r"#SBATCH --array=0-([0-9]+)", Path(script).read_text())
codes = []
if all(job["codes"] and not any(job["codes"]) for job in jobs if job["id"] in waits):
    for index in range(int(array[1]) + 1) if array else [None]:
        environment = os.environ | ({{}} if index is None else {{"SLURM_ARRAY_TASK_ID": str(index)}})
        codes.append(subprocess.run(["bash", script], env=environment).returncode)
jobs.append({{"id": str(100 + len(jobs)), "script": Path(script).stem, "waits": waits, "codes": codes}})
log.write_text(json.dumps(jobs))
print(jobs[-1]["id"])
"""


def caption(rows, options, context):
    if (context.out / "down").exists():
        raise RuntimeError("no captioner answers")
    for row in rows:
        text = f"A picture called {row['key']}."
        one = {"style": "dense", "text": text, "captioner": "test"}
        yield {"key": row["key"], "captions": [one], "global_caption": text, "captioner": "test"}


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    noise = np.random.default_rng(0)
    for number in range(10):
        coarse = noise.integers(40, 215, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((480, 480), Image.Resampling.NEAREST).save(folder / f"{number}.png")
    (folder / "9 again.png").write_bytes((folder / "9.png").read_bytes())
    return folder


@pytest.fixture
def run(tmp_path, source):
    content = {
        "ingest": {"source": "test", "license": "cc0"},
        "recaption": {"function": f"{__name__}:caption"},
        "rows_per_shard": 3,
    }
    return open_run(recipe_from(content), source, tmp_path / "the run")


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    """Calls of the stand-in, in order."""
    program = tmp_path / "bin" / "sbatch"
    program.parent.mkdir()
    program.write_text(SBATCH)
    program.chmod(0o755)
    log = tmp_path / "jobs.json"
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    monkeypatch.setenv("STAND_IN_LOG", str(log))

    def take():
        found = json.loads(log.read_text())
        log.unlink()
        return found

    return take


def test_passes_are_cut_where_one_must_see_everything(run):
    assert stages(run.recipe) == [Stage(None, ("ingest", "filter")), Stage("dedup", ("dedup", "recaption", "pack"))]


@pytest.mark.slow
def test_a_chain_of_jobs_does_a_whole_run_and_goes_on_after_a_failure(run, jobs):
    down = run.store.out / "down"
    down.touch()
    submit(run, tasks=2, tries=1)
    first = jobs()
    assert [(job["script"], job["codes"]) for job in first] == [
        ("1-ingest-filter", [0, 0]),
        ("2-dedup-all", [0]),
        ("3-dedup-recaption-pack", [1, 1]),
        ("4-finish", []),
    ]
    assert [job["waits"] for job in first] == [[], ["100"], ["101"], ["102"]]
    assert len(summarise(run).passes[3].set_aside) == len(run.shards) == 4

    down.unlink()
    assert list(submit(run, tasks=2, tries=1)) == ["1-dedup-recaption-pack", "2-finish"]
    assert [job["codes"] for job in jobs()] == [[0, 0], [0]]
    summary = summarise(run)
    assert (summary.images, summary.records, summary.rejected, summary.problems) == (11, 10, 1, [])
    assert summary.finished
    published = pq.read_table(run.store.out / "dataset" / "data")
    assert sorted(published["global_caption"].to_pylist())[0] == "A picture called 0.png."
    assert len(published) == 10


def test_a_task_does_its_share_and_no_more(run):
    schedule = run_slurm_task(run, ["ingest"], index=1, count=3)
    assert schedule.left == 0
    assert [run.output("ingest", shard.name).exists() for shard in run.shards] == [False, True, False, False]


def test_nothing_looks_at_half_a_collection(run):
    with pytest.raises(StopRun, match="8 outputs are missing"):
        run_slurm_reduce(run, "dedup")
    with pytest.raises(StopRun, match="not looked at the whole collection yet"):
        run_slurm_task(run, ["dedup", "pack"], index=0, count=2)
    assert not run.reduced("dedup").exists()


def test_scripts_are_bash_and_hold_what_slurm_reads(run):
    first, *_, last = write_jobs(run, tasks=100, workers=3)
    for job in (first, last):
        subprocess.run(["bash", "-n", str(job.script)], check=True)
    text = first.script.read_text()
    assert f"#SBATCH --array=0-{len(run.shards) - 1}\n#SBATCH --cpus-per-task=3\n" in text
    assert "'" + str(run.store.out) + "'" in text  # a blank in the path
    assert "--array" not in last.script.read_text()


def test_a_refused_job_and_a_missing_slurm_are_said_clearly(run, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="login node"):
        submit(run)
    refusing = tmp_path / "sbatch"
    refusing.write_text("#!/bin/sh\necho 'sbatch: error: invalid partition' >&2\nexit 1\n")
    refusing.chmod(0o755)
    monkeypatch.setattr(slurm.shutil, "which", lambda name: str(refusing))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    with pytest.raises(ValueError, match="invalid partition"):
        submit(run)
