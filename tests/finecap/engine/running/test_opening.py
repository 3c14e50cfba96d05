"""Beginning a run and finding it again: one collection, one recipe, wherever and whenever it goes on."""

import shutil
from pathlib import Path

import pytest
import yaml
from PIL import Image

from finecap.engine.captioners.prompts import SHIPPED
from finecap.engine.command import caption
from finecap.engine.recipe import recipe_from
from finecap.engine.reporting.status import summarise
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
