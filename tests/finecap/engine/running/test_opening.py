"""Beginning a run and finding it again: one collection, one recipe, wherever and whenever it goes on."""

import importlib
import linecache
import os
import pickle
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from finecap.engine import pipeline
from finecap.engine import recipe as recipes
from finecap.engine.captioners.prompts import SHIPPED
from finecap.engine.command import caption
from finecap.engine.recipe import load_recipe, recipe_from
from finecap.engine.reporting.status import summarise
from finecap.engine.running.executors.slurm import write_jobs
from finecap.engine.running.one_shard import run_shard
from finecap.engine.running.opening import leave_out, load_run, open_run
from finecap.errors import StopRun


def breaks_on_the_second(rows, options, context):
    if context.shard.startswith("00001"):
        raise RuntimeError("this shard is cursed")
    for row in rows:
        yield {"key": row["key"], "branch": "photo"}


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(4):
        Image.new("RGB", (8, 8 + number)).save(folder / f"{number}.png")
    return folder


def recipe(rows=2, **sections):
    return recipe_from({"ingest": {"source": "s", "license": "l"}, "rows_per_shard": rows, **sections})


def keys(run):
    return [run.recipe.pass_key(step.name) for step in run.recipe.enabled()]


def test_a_run_is_found_again_as_it_was_begun(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = open_run(recipe(), source, Path("out"))
    assert run.store.out == tmp_path / "out"
    again = load_run(Path("out"))
    assert (again.shards, keys(again)) == (run.shards, keys(run))
    assert open_run(recipe(), source, tmp_path / "out").shards == run.shards


def test_templates_travel_with_the_run(source, tmp_path, monkeypatch):
    (tmp_path / "mine.yaml").write_text(SHIPPED.read_text() + "# mine\n")
    monkeypatch.chdir(tmp_path)
    captioner = {"name": "a", "model": "m", "endpoints": ["http://localhost:1/v1"]}
    mine = recipe(captioners=[captioner], recaption={"prompts": "mine.yaml"})
    run = open_run(mine, source, tmp_path / "out")
    assert keys(run) == [mine.pass_key(step.name) for step in mine.enabled()]

    (tmp_path / "mine.yaml").write_text("edited: while it runs\n")
    shutil.move(tmp_path / "out", tmp_path / "elsewhere")
    monkeypatch.chdir(source)
    found = load_run(tmp_path / "elsewhere")
    assert keys(found) == keys(run)
    assert found.recipe.passes["recaption"].prompts.read_text().endswith("# mine\n")


def test_other_input_is_refused_also_after_the_shards_were_cut_anew(source, tmp_path):
    open_run(recipe(rows=10), source, tmp_path / "out")
    open_run(recipe(rows=20), source, tmp_path / "out")
    Image.new("RGB", (9, 9)).save(source / "new.png")
    with pytest.raises(ValueError, match="began with other input"):
        open_run(recipe(rows=20), source, tmp_path / "out")


def test_what_was_left_out_stays_out_but_never_all(source, tmp_path):
    run = open_run(recipe(), source, tmp_path / "out")
    first, second = (shard.name for shard in run.shards)
    assert [shard.name for shard in leave_out(run, [first]).shards] == [second]
    for again in (load_run(tmp_path / "out"), open_run(recipe(), source, tmp_path / "out")):
        assert [shard.name for shard in again.shards] == [second]
    with pytest.raises(StopRun, match="every shard failed"):
        leave_out(again, [second])


@pytest.mark.parametrize("out", [".", "out", "deep/er", "../in/out"])
def test_a_run_is_never_its_own_input(source, out):
    with pytest.raises(ValueError, match="lies in the input"):
        open_run(recipe(), source, source / out)
    assert sorted(path.name for path in source.iterdir()) == ["0.png", "1.png", "2.png", "3.png"]


@pytest.mark.parametrize("out", ["taken", "taken/below"])
def test_a_file_in_the_place_of_the_folder(source, tmp_path, out):
    (tmp_path / "taken").write_text("")
    with pytest.raises(StopRun, match=r"cannot be made .*--out that can be a folder"):
        open_run(recipe(), source, tmp_path / out)


def test_the_command_goes_on_without_what_fails_only_if_it_is_told_to(source, tmp_path):
    content = {"ingest": {"source": "s", "license": "l"}, "filter": {"function": f"{__name__}:breaks_on_the_second"}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content | {"rows_per_shard": 2}))
    arguments = (tmp_path / "recipe.yaml", source, tmp_path / "out")
    with pytest.raises(StopRun, match=r"1 times a shard was set aside after 2 tries.*\n.*cursed"):
        caption(*arguments, workers=1, tries=2)
    run = caption(*arguments, workers=1, tries=2, leave_out_failed=True)
    summary = summarise(run)
    assert [name[:5] for name in summary.left_out] == ["00001"]
    assert (summary.finished, summary.images, summary.records + summary.rejected) == (True, 2, 2)


def test_a_torn_plan_is_named(source, tmp_path):
    open_run(recipe(), source, tmp_path / "out")
    plan = tmp_path / "out" / "plan.json"
    for torn in (plan.read_text()[:40], "", "[]", "{}"):
        plan.write_text(torn)
        for start in (lambda: open_run(recipe(), source, tmp_path / "out"), lambda: load_run(tmp_path / "out")):
            with pytest.raises(ValueError, match=r"plan\.json: .*start the run again"):
                start()


def test_an_input_that_moved_is_read_where_it_is_now(source, tmp_path):
    open_run(recipe(), source, tmp_path / "out")
    moved = source.rename(tmp_path / "moved")
    source.mkdir()
    for name in ("0.png", "1.png", "2.png", "3.png"):
        (source / name).write_bytes(b"other pictures of the same names")
    open_run(recipe(), moved, tmp_path / "out")
    assert {shard.root for shard in load_run(tmp_path / "out").shards} == {str(moved)}


def test_workers_get_no_names_of_pictures_and_read_those_of_their_shard(source, tmp_path):
    (source / "metadata.jsonl").write_text('{"file_name": "1.png", "license": "cc0"}\n')
    run = open_run(recipe(), source, tmp_path / "out")
    assert b"0.png" not in pickle.dumps(run)
    assert "0.png" not in (tmp_path / "out" / "plan.json").read_text()
    (source / "metadata.jsonl").unlink()  # it was read while planning
    for shard in run.shards:
        run_shard(run, "ingest", shard, {})
    rows = [row for shard in run.shards for row in pq.read_table(run.output("ingest", shard.name)).to_pylist()]
    assert [(row["key"], row["license"]) for row in rows] == [(f"{n}.png", "cc0" if n == 1 else "l") for n in range(4)]


def test_a_run_goes_on_without_its_input_once_all_of_it_is_ingested(source, tmp_path):
    run = open_run(recipe(), source, tmp_path / "out")
    moved = source.rename(tmp_path / "moved")
    with pytest.raises(ValueError, match="no such file or folder"):
        open_run(recipe(), source, tmp_path / "out")
    moved.rename(source)
    for shard in run.shards:
        run_shard(run, "ingest", shard, {})
    source.rename(moved)
    again = open_run(recipe(filter={"min_short_side": 9}), source, tmp_path / "out")
    assert again.shards == run.shards
    with pytest.raises(ValueError, match="no such file or folder"):  # other pictures would be ingested
        open_run(recipe(ingest={"source": "s", "license": "l", "max_bytes": 10}), source, tmp_path / "out")


def test_a_queued_job_keeps_its_recipe(source, tmp_path):
    first = open_run(recipe(), source, tmp_path / "out")
    jobs = write_jobs(first)
    bound = jobs[0].script.read_text().split("--recipe ")[1].split()[0]
    second = open_run(recipe(filter={"min_short_side": 9}), source, tmp_path / "out")
    assert keys(load_run(tmp_path / "out")) == keys(second) != keys(first)
    assert keys(load_run(tmp_path / "out", Path(bound))) == keys(first)
    assert all(bound in job.script.read_text() for job in jobs)
    open_run(recipe(rows=3), source, tmp_path / "out")
    with pytest.raises(ValueError, match="shards have 3 rows"):
        load_run(tmp_path / "out", Path(bound))


def detecting(folder):
    return recipe(
        captioners=[{"name": "a", "model": "m", "endpoints": ["http://localhost:1/v1"]}],
        recaption={},
        phrases={},
        boxes={"detector": str(folder)},
    )


def test_weights_and_code_are_known_by_their_content(source, tmp_path, monkeypatch):
    weights = tmp_path / "detector" / "model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"0" * 100)
    before = keys(open_run(detecting(weights.parent), source, tmp_path / "out"))
    times = weights.stat().st_mtime_ns
    weights.write_bytes(b"1" * 100)
    os.utime(weights, ns=(times, times))  # same size, same time
    after = keys(open_run(detecting(weights.parent), source, tmp_path / "out"))
    assert [old == new for old, new in zip(before, after, strict=True)] == [True] * 5 + [False, False]
    moved = weights.parent.rename(tmp_path / "elsewhere")
    assert keys(open_run(detecting(moved), source, tmp_path / "out")) == after
    shutil.rmtree(moved)
    assert keys(load_run(tmp_path / "out")) == after  # the status needs no weights

    module = tmp_path / "our_filter.py"
    monkeypatch.syspath_prepend(tmp_path)
    found = []
    for limit in (1, 2, 2):
        module.write_text(f"LIMIT = {limit}\n\ndef keep(rows, options, context):\n    yield from rows\n")
        sys.modules.pop("our_filter", None)
        linecache.clearcache()
        importlib.invalidate_caches()
        found.append(keys(open_run(recipe(filter={"function": "our_filter:keep"}), source, tmp_path / "2")))
    assert found[0] != found[1] == found[2]


def test_a_new_version_or_column_of_a_pass_makes_it_and_all_behind_it_again(monkeypatch):
    plain = [recipe().pass_key(name) for name in ("ingest", "filter", "dedup", "pack")]
    for change in ({"version": 2}, {"columns": pipeline.PASSES[1].columns.append(pa.field("new", pa.string()))}):
        changed = (pipeline.PASSES[0], replace(pipeline.PASSES[1], **change), *pipeline.PASSES[2:])
        with monkeypatch.context() as patch:
            patch.setattr(recipes, "PASSES", changed)
            other = [recipe().pass_key(name) for name in ("ingest", "filter", "dedup", "pack")]
        assert [old == new for old, new in zip(plain, other, strict=True)] == [True, False, False, False]


def test_a_relative_detector_is_looked_for_beside_the_recipe(tmp_path, monkeypatch):
    (tmp_path / "recipes" / "weights").mkdir(parents=True)
    text = yaml.safe_dump({"ingest": {"source": "s", "license": "l"}, "recaption": {}, "phrases": {}})
    captioner = '\ncaptioners: [{"name": "a", "model": "m", "endpoints": ["http://localhost:1/v1"]}]\n'
    (tmp_path / "recipes" / "mine.yaml").write_text(text + captioner + "boxes: {detector: weights}\n")
    monkeypatch.chdir(tmp_path / "recipes")
    for given in ("mine.yaml", tmp_path / "recipes" / "mine.yaml"):
        assert load_recipe(given).passes["boxes"].detector == str(tmp_path / "recipes" / "weights")
