"""A build can be read by `datasets`, killed and resumed, and is the same for any number of workers."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import datasets
import pyarrow.parquet as pq
import pytest

from finecap.corpus import build
from finecap.corpus.build import apportion, build_corpus, plan, resolve
from finecap.features import FINECAP_FEATURES
from finecap.files import claimed
from finecap.shards.layout import SPLITS

SIZE = 240
BUILD = """
import dataclasses, sys
from pathlib import Path
from finecap.corpus import build, levels

if __name__ == "__main__":
    build.build_corpus(Path(sys.argv[1]), int(sys.argv[2]), seed=3, workers=int(sys.argv[3]))
"""


def shard_bytes(out):
    return {path.name: path.read_bytes() for path in sorted((out / "data").glob("*.parquet"))}


def quiet(line):
    pass


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    out = tmp_path_factory.mktemp("corpus")
    lines = []
    result = build_corpus(out, SIZE, seed=3, workers=1, report=lines.append)
    return out, result, lines


def test_load_dataset_reads_a_build_with_its_features(built, tmp_path):
    out, result, _ = built
    data = datasets.load_dataset(str(out), cache_dir=str(tmp_path))
    assert {split: len(rows) for split, rows in data.items()} == {"train": 216, "validation": 7, "test": 17}
    assert result.rows == result.rows_written == SIZE
    assert data["train"].features == FINECAP_FEATURES
    row = data["train"][0]
    assert row["image"].size == (row["width"], row["height"])
    ids = [name for split in SPLITS for name in data[split]["id"]]
    assert len(set(ids)) == SIZE
    for split in SPLITS:
        assert set(data[split]["split"]) == {split}
        assert set(data[split]["source"]) == {"finevit-docs", "finevit-charts", "finevit-scenes", "easy-vqa"}


def test_a_build_tells_its_speed_and_leaves_a_card_and_galleries(built):
    out, result, lines = built
    assert "s left" not in lines[0]  # which foretells nothing yet
    assert "rows/s" in lines[1]
    assert result.rows_per_second > 0
    card = (out / "README.md").read_text()
    assert "held out" in card
    assert "CC-BY-SA-4.0" in card
    assert sorted(path.stem for path in (out / "gallery").iterdir()) == [
        "easy-vqa",
        "finevit-charts",
        "finevit-docs",
        "finevit-scenes",
    ]


def test_building_again_writes_nothing_and_another_configuration_is_refused(built):
    out, _, _ = built
    before = shard_bytes(out)
    assert build_corpus(out, SIZE, seed=3, report=quiet).rows_written == 0
    assert shard_bytes(out) == before
    with pytest.raises(ValueError, match="another configuration"):
        build_corpus(out, SIZE, seed=4, report=quiet)
    assert shard_bytes(out) == before


def test_two_workers_write_the_same_bytes_as_one(built, tmp_path):
    build_corpus(tmp_path / "two", SIZE, seed=3, workers=2, report=quiet)
    assert shard_bytes(tmp_path / "two") == shard_bytes(built[0])


def test_a_build_that_was_killed_goes_on_to_the_same_rows(tmp_path):
    """SIGKILL to a real build as soon as its first shard is there; its workers must end, and the resumed build must
    equal an uninterrupted one.
    """
    script = tmp_path / "build.py"
    script.write_text(BUILD)
    out, size = tmp_path / "killed", 2000
    process = subprocess.Popen([sys.executable, str(script), str(out), str(size), "1"], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 100
    while not list((out / "data").glob("*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.05)
        assert process.poll() is None, "the build ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = shard_bytes(out)
    stamps = {path.name: path.stat().st_mtime_ns for path in (out / "data").glob("*.parquet")}
    assert 0 < len(finished) < 6
    result = build_corpus(out, size, seed=3, workers=1, report=quiet)
    assert result.rows_written == size - sum(
        pq.ParquetFile(out / "data" / name).metadata.num_rows for name in finished
    )
    assert {name: (out / "data" / name).stat().st_mtime_ns for name in finished} == stamps
    assert not list((out / "data").glob(".*"))
    build_corpus(tmp_path / "whole", size, seed=3, workers=2, report=quiet)
    assert shard_bytes(out) == shard_bytes(tmp_path / "whole")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 5}, "too small"),
        ({"size": 100, "kinds": {"video": 1}}, "unknown kinds video"),
        ({"size": 100, "kinds": {"doc": -1}}, "none may be negative"),
        ({"size": 100, "difficulty": "huge"}, "expected one of nano"),
        ({"size": 100, "split_shares": {"train": 0.9, "validation": 0.2, "test": 0.2}}, "sum to 1"),
        ({"size": 100, "workers": 0}, "at least 1"),
        ({"size": 20000, "kinds": {"easyvqa": 1}}, "ask for fewer"),
    ],
)
def test_an_impossible_request_is_refused_before_anything_is_written(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        build_corpus(tmp_path / "none", report=quiet, **arguments)
    assert not (tmp_path / "none").exists()


def test_easy_vqa_is_capped_at_its_pictures_and_the_rest_goes_to_the_others():
    config = resolve(40000, 0, "nano", None, None)
    assert config.rows["train"]["easyvqa"] == 3800
    assert config.rows["test"]["easyvqa"] == 700
    assert sum(sum(kinds.values()) for kinds in config.rows.values()) == 40000


def test_rows_are_shared_out_to_the_last_one():
    assert apportion(10, {"a": 1, "b": 1, "c": 1}) == {"a": 4, "b": 3, "c": 3}
    config = resolve(1000, 1, "nano", {"doc": 3, "chart": 1}, None)
    rows = plan(config, "train")
    assert len(rows) == len(set(rows)) == 900
    assert json.dumps(config.rows) == json.dumps(resolve(1000, 2, "nano", {"doc": 3, "chart": 1}, None).rows)


def test_rows_are_mixed_once_for_all_shards_of_a_split(monkeypatch):
    config = resolve(4000, 1, "nano", {"doc": 3, "chart": 1}, None)
    whole = [(kind, index) for kind, count in config.rows["train"].items() for index in range(count)]
    random.Random("1|plan|train").shuffle(whole)
    build.mixed_rows.cache_clear()
    parts = [plan(config, "train", start, start + 100) for start in range(0, 3600, 100)]
    assert [row for part in parts for row in part] == whole
    assert build.mixed_rows.cache_info().misses == 1


def test_a_second_build_of_the_same_folder_is_refused_and_disturbs_nothing(built):
    out, _, _ = built
    before = shard_bytes(out)
    (out / "data" / ".train-00000-of-00001.parquet.1.tmp").write_bytes(b"half")
    with claimed(out / build.CONFIG_FILE), pytest.raises(ValueError, match="another build is at work"):
        build_corpus(out, SIZE, seed=3, workers=1, report=quiet)
    assert (out / "data" / ".train-00000-of-00001.parquet.1.tmp").exists()
    assert build_corpus(out, SIZE, seed=3, workers=1, report=quiet).rows_written == 0
    assert not list((out / "data").glob(".*"))
    assert shard_bytes(out) == before


def test_a_shard_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    synced = []
    plain = os.fsync

    def fsync(descriptor):
        synced.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        plain(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    build.write_shard(resolve(12, 3, "nano", {"doc": 1}, None), tmp_path, "test", 0, 1)
    assert [name.replace(str(os.getpid()), "PID") for name in synced] == [
        ".test-00000-of-00001.parquet.PID.tmp",
        "data",
    ]
