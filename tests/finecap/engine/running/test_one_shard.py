"""A pass over a shard: live rows in, an aligned file out, or nothing at all."""

import dataclasses
import errno
from itertools import islice

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finecap import files
from finecap.engine.captioners.prompts import SHIPPED
from finecap.engine.recipe import Recipe, mapping_of, recipe_from
from finecap.engine.running import one_shard as runner
from finecap.engine.running.one_shard import Run, read_stats, run_shard
from finecap.engine.running.store import Store
from finecap.errors import StopRun
from finecap.files import claimed, committed
from finecap.shards.plan import Shard

CAPTIONER = {"name": "a", "model": "m", "endpoints": ["http://localhost:1/v1"]}
SHARD = Shard("00000-abc", "folder", ("a", "b", "c"))


def ingest(rows, options, context):
    for row in rows:
        bad = row["key"] == "b"
        yield {
            "key": row["key"],
            "id": row["key"],
            "image": row["bytes"],
            "reject": "broken: no picture" if bad else None,
        }


def measure(rows, options, context):
    for row in rows:
        context.counters["seen"] += 1
        yield {"key": row["key"], "branch": f"{len(row['image'])}"}


@pytest.fixture
def run(tmp_path, monkeypatch):
    items = [{"key": key, "bytes": key.encode() * 3, "url": None} for key in "abc"]
    monkeypatch.setattr(runner, "read_shard", lambda shard: iter(items))
    recipe = recipe_from(
        {
            "ingest": {"source": "s", "license": "l", "function": f"{__name__}:ingest"},
            "filter": {"function": f"{__name__}:measure"},
        }
    )
    return Run(recipe, Store(tmp_path), (SHARD,))


def test_a_rejected_row_keeps_its_place_and_is_never_shown_again(run):
    first = run_shard(run, "ingest", SHARD, {})
    second = run_shard(run, "filter", SHARD, {})

    assert (first.rows, first.rejects) == (3, {"broken": 1})
    assert (second.rows, second.counters) == (2, {"seen": 2})
    table = pq.read_table(run.output("filter", SHARD.name))
    assert table["key"].to_pylist() == ["a", "b", "c"]
    assert table["branch"].to_pylist() == ["3", None, "3"]
    assert read_stats(run.output("filter", SHARD.name)) == second


def test_what_exists_is_not_done_again(run, monkeypatch):
    stats = run_shard(run, "ingest", SHARD, {})
    monkeypatch.setattr(runner, "read_shard", lambda shard: pytest.fail("read again"))
    assert run_shard(run, "ingest", SHARD, {}) == stats


@pytest.mark.parametrize("fault", ["lost", "doubled", "swapped", "nameless"])
def test_a_pass_that_loses_doubles_swaps_or_does_not_name_rows_commits_nothing(run, monkeypatch, fault):
    run_shard(run, "ingest", SHARD, {})

    def broken(rows, options, context):
        results = [{"key": row["key"], "branch": "x"} for row in rows]
        doubled, nameless = [*results, results[-1]], [{"branch": "x"}]
        yield from {"lost": results[:1], "doubled": doubled, "swapped": results[::-1], "nameless": nameless}[fault]

    original = Recipe.step
    step = dataclasses.replace(run.recipe.step("filter"), run=broken)
    monkeypatch.setattr(Recipe, "step", lambda self, name: step if name == "filter" else original(self, name))
    with pytest.raises(RuntimeError, match="filter returned"):
        run_shard(run, "filter", SHARD, {})
    assert [path.name for path in run.output("filter", "x").parent.iterdir()] == []


@pytest.mark.parametrize("fault", ["lost", "doubled", "swapped", "unread", "cut short"])
def test_ingest_is_compared_with_the_input_as_well(run, monkeypatch, fault):
    def broken(rows, options, context):
        if fault == "unread":
            return
        results = [{"key": row["key"]} for row in (islice(rows, 2) if fault == "cut short" else rows)]
        doubled = [*results, results[-1]]
        yield from {"lost": results[:1], "doubled": doubled, "swapped": results[::-1]}.get(fault, results)

    original = Recipe.step
    step = dataclasses.replace(original(run.recipe, "ingest"), run=broken)
    monkeypatch.setattr(Recipe, "step", lambda self, name: step if name == "ingest" else original(self, name))
    plain = Run(dataclasses.replace(run.recipe, functions={}), run.store, run.shards)
    with pytest.raises(RuntimeError, match="ingest returned"):
        run_shard(plain, "ingest", SHARD, {})
    assert [path.name for path in plain.output("ingest", "x").parent.iterdir()] == []


def test_large_pictures_are_not_held_by_the_dozen(run, monkeypatch):
    size, count = 2**24, 12
    items = [{"key": f"{number}", "bytes": bytes(size), "url": None} for number in range(count)]
    monkeypatch.setattr(runner, "read_shard", lambda shard: iter(items))
    run_shard(run, "ingest", SHARD, {})
    held = []

    def watch(rows, options, context):
        for row in rows:
            held.append(pa.total_allocated_bytes() - before)
            yield {"key": row["key"], "branch": "photo"}

    before = pa.total_allocated_bytes()
    original = Recipe.step
    step = dataclasses.replace(run.recipe.step("filter"), run=watch)
    monkeypatch.setattr(Recipe, "step", lambda self, name: step if name == "filter" else original(self, name))
    assert run_shard(run, "filter", SHARD, {}).rows == count
    assert max(held) < 8 * size


def test_a_changed_option_gets_a_new_folder_and_an_operational_one_does_not(run):
    def key(name, **changes):
        content = {"ingest": {"source": "s", "license": "l"}, "recaption": {}, "captioners": [CAPTIONER]}
        for section, value in changes.items():
            content[section] = value
        return recipe_from(content).pass_key(name)

    assert key("filter") != key("filter", filter={"min_short_side": 10})
    assert key("dedup") != key("dedup", filter={"min_short_side": 10})
    assert key("ingest") == key("ingest", filter={"min_short_side": 10})
    assert key("recaption") == key("recaption", recaption={"in_flight": 7})
    assert key("recaption") == key("recaption", budget={"tokens": 5})
    priced = CAPTIONER | {"dollars_per_million_prompt_tokens": 2.0, "dollars_per_million_completion_tokens": 9.0}
    assert key("recaption") == key("recaption", captioners=[priced])
    assert key("recaption") != key("recaption", captioners=[CAPTIONER | {"temperature": 0.1}])
    grounds = CAPTIONER | {"name": "g", "weight": 0}
    assert key("recaption") == key("recaption", captioners=[CAPTIONER, grounds])
    found_by = {"phrases": {}, "boxes": {"captioner": "g"}}
    other = grounds | {"model": "other"}
    assert key("boxes", **found_by, captioners=[CAPTIONER, grounds]) != key(
        "boxes", **found_by, captioners=[CAPTIONER, other]
    )


def test_a_full_disk_ends_the_run_with_a_clear_error_and_leaves_nothing(tmp_path):
    def fill() -> None:
        with committed(tmp_path / "x" / "file") as aside:
            aside.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StopRun, match="No space left"):
        fill()
    assert list((tmp_path / "x").iterdir()) == []


def test_a_model_that_may_not_be_read_is_not_taken_for_a_full_disk(tmp_path):
    def read() -> None:
        with committed(tmp_path / "x" / "file"):
            raise PermissionError(errno.EACCES, "Permission denied", "/models/detector/config.json")

    with pytest.raises(PermissionError, match="/models/detector"):
        read()


def test_a_folder_that_may_not_be_made_ends_the_run(tmp_path):
    with pytest.raises(StopRun, match="cannot be written"), committed(tmp_path / "out" / "passes" / "x"):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "out"))


def test_a_file_system_without_locks_ends_the_run(tmp_path, monkeypatch):
    def flock(descriptor, operation):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(files.fcntl, "flock", flock)
    with pytest.raises(StopRun, match="no locks"), claimed(tmp_path / "output"):
        pass


def test_every_unknown_key_is_named():
    with pytest.raises(ValueError, match="unknown section 'filtre'"):
        recipe_from({"ingest": {"source": "s", "license": "l"}, "filtre": {}})
    with pytest.raises(ValueError, match=r"filter\.min_side"):
        recipe_from({"ingest": {"source": "s", "license": "l"}, "filter": {"min_side": 1}})
    with pytest.raises(ValueError, match="filter: expected options"):
        recipe_from({"ingest": {"source": "s", "license": "l"}, "filter": ["min_short_side"]})
    with pytest.raises(ValueError, match="phrases needs the section 'recaption'"):
        recipe_from({"ingest": {"source": "s", "license": "l"}, "phrases": {}})


def test_a_recipe_survives_its_own_yaml_with_the_same_hashes():
    content = {
        "ingest": {"source": "s", "license": "l"},
        "recaption": {"styles": ["dense"], "function": f"{__name__}:measure"},
        "captioners": [
            {
                "name": "a",
                "model": "m",
                "endpoints": ["http://localhost:1/v1"],
                "weight": 2,
                "dollars_per_million_completion_tokens": 1,
            }
        ],
        "budget": {"dollars": 3.5},
    }
    recipe = recipe_from(content)
    again = recipe_from(mapping_of(recipe))
    assert again == recipe
    assert [again.pass_key(step.name) for step in again.enabled()] == [
        recipe.pass_key(step.name) for step in recipe.enabled()
    ]
    assert "phrases" not in recipe.passes


def test_a_template_is_known_by_its_content(tmp_path):
    def key(words):
        path = tmp_path / "prompts.yaml"
        path.write_text(SHIPPED.read_text() + words)
        content = {"ingest": {"source": "s", "license": "l"}, "captioners": [CAPTIONER]}
        return recipe_from(content | {"recaption": {"prompts": str(path)}}).pass_key("recaption")

    assert key("") == key("")
    assert key("") != key("# another wording\n")


def test_a_key_written_into_the_recipe_by_mistake_is_not_printed():
    with pytest.raises(ValueError, match="name of an environment variable") as caught:
        recipe_from({"ingest": {"source": "s", "license": "l"}, "captioners": [CAPTIONER | {"api_key_env": "sk-1!"}]})
    assert "sk-1" not in str(caught.value)
    for wrong in ({"captioners": [CAPTIONER | {"api_key": "sk-1!"}]}, {"recaption": {"api_key": "sk-1!"}}):
        with pytest.raises(ValueError, match="api_key") as caught:
            recipe_from({"ingest": {"source": "s", "license": "l"}, "captioners": [CAPTIONER]} | wrong)
        assert "sk-1" not in str(caught.value)


def test_captions_need_captioners_of_different_names():
    content = {"ingest": {"source": "s", "license": "l"}, "recaption": {}}
    with pytest.raises(ValueError, match="recaption needs at least one captioner"):
        recipe_from(content)
    with pytest.raises(ValueError, match="same name"):
        recipe_from(content | {"captioners": [CAPTIONER, CAPTIONER]})


def test_a_journal_that_outlived_its_shard_goes_at_the_next_call(run):
    run_shard(run, "ingest", SHARD, {})
    journal = run.store.journal(run.recipe.pass_key("ingest"), SHARD.name)
    journal.write_text('{"key": "a", "answer": "paid"}\n')
    run_shard(run, "ingest", SHARD, {})
    assert not journal.exists()
