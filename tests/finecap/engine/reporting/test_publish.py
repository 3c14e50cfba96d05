"""From packed shards to a dataset folder that others read."""

import errno
import io
import json
import os
import random
import subprocess
import sys
import tarfile
import threading
import time
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from datasets import load_dataset
from PIL import Image

from finecap.engine.passes.pack import COLUMNS
from finecap.engine.reporting import publish as publish_module
from finecap.engine.reporting.dataset_stats import summarise_counts
from finecap.engine.reporting.publish import publish, record_writer
from finecap.engine.running.one_shard import Run
from finecap.errors import StopRun
from finecap.features import FINECAP_FEATURES
from finecap.shards.tar_writer import export_webdataset
from tests.support.packed_run import everything, make_run, picture, records_of


def test_datasets_reads_the_folder_split_by_split(published, tmp_path):
    data = load_dataset(str(published), cache_dir=str(tmp_path / "cache"))
    assert {split: rows.num_rows for split, rows in data.items()} == {"train": 8, "test": 2}
    assert data["train"].features == FINECAP_FEATURES
    assert data["test"]["id"] == ["shop/00001-b-1.x", "shop/00001-b-3.x"]
    expected = np.asarray(Image.open(io.BytesIO(picture("00001-b-3"))))
    assert (np.asarray(data["test"][1]["image"]) == expected).all()


def test_files_are_numbered_within_their_split_and_whole_shards_are_links(packed, published):
    folder = published / "data"
    assert sorted(path.name for path in folder.iterdir()) == [
        "test-00000-of-00001.parquet",
        "train-00000-of-00003.parquet",
        "train-00001-of-00003.parquet",
        "train-00002-of-00003.parquet",
    ]
    assert (folder / "train-00000-of-00003.parquet").samefile(packed.output("pack", "00000-a"))
    for path in folder.iterdir():
        assert pq.read_schema(path).equals(COLUMNS)


def test_without_links_the_shards_are_copied(run, monkeypatch):
    def refuse(source, target):
        raise OSError(errno.EXDEV, "other file system")

    monkeypatch.setattr(os, "link", refuse)
    path = publish(run) / "data" / "train-00000-of-00003.parquet"
    assert path.read_bytes() == run.output("pack", "00000-a").read_bytes()


def test_publishing_again_changes_no_byte_and_leaves_nothing_behind(run):
    first = everything(publish(run))
    assert everything(publish(run)) == first
    assert {path.name for path in run.store.out.iterdir()} == {"passes", "dataset"}


def test_files_of_an_older_dataset_do_not_stay(run):
    publish(run)
    fewer = Run(run.recipe, run.store, run.shards[:1])
    names = {path.name for path in (publish(fewer) / "data").iterdir()}
    assert names == {"train-00000-of-00001.parquet"}


def test_what_is_not_packed_is_not_published(run):
    run.output("pack", "00003-d").unlink()
    with pytest.raises(ValueError, match=r"1 of 4 shards are not packed yet, the first is .*00003-d"):
        publish(run)


def test_who_comes_second_waits_and_takes_what_the_first_one_published(run, monkeypatch):
    other = run.store.out / "dataset"
    monkeypatch.setattr(publish_module, "WAIT_SECONDS", 0.05)
    writes = []
    plain = publish_module._write_dataset

    def watched(*arguments):
        writes.append(threading.current_thread().name)
        if len(writes) == 1:
            second.start()
            time.sleep(0.3)
        return plain(*arguments)

    monkeypatch.setattr(publish_module, "_write_dataset", watched)
    found = []
    second = threading.Thread(target=lambda: found.append(publish(run)), name="second")
    assert publish(run) == other
    second.join(timeout=60)
    assert found == [other]
    assert writes == ["MainThread"]


def test_a_full_disk_leaves_the_older_dataset_whole(run, monkeypatch):
    before = everything(publish(run))

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(publish_module, "_split_file", full)
    with pytest.raises(StopRun, match="No space left"):
        publish(run)
    assert everything(run.store.out / "dataset") == before


def test_the_figures_are_those_that_counting_the_records_gives(published):
    records = records_of(published)
    stats = json.loads((published / "stats.json").read_text())
    regions = [region for record in records for region in record["regions"]]
    labels = Counter(region["label"] for region in regions if region["kind"] == "object")
    words = sorted(len(record["global_caption"].split()) for record in records)

    assert stats["splits"]["train"]["records"] == 8
    assert sum(split["regions"] for split in stats["splits"].values()) == len(regions)
    assert sum(split["local_captions"] for split in stats["splits"].values()) == sum(
        region["caption"] is not None for region in regions
    )
    assert stats["categories"]["head"] == dict(labels)
    assert stats["categories"]["different"] == len(labels)
    assert stats["licenses"] == {"CC-BY-4.0": 10}
    assert stats["captioners"] == {"m|1": 10}
    assert stats["checks"] == {"numbers": 10, "read back … of … lines": 10}
    assert stats["flags"] == {"dense: number … not in the OCR text": 10, "object … quote … not in it": 10}
    lengths = stats["distributions"]["global caption, words"]
    assert (lengths["min"], lengths["max"], lengths["mean"]) == (words[0], words[-1], round(sum(words) / 10, 3))
    aspect = stats["distributions"]["aspect, width / height"]
    assert aspect["bins"][0][:2] == [1, 2]


def test_more_files_than_a_process_may_open_are_counted(tmp_path):
    """In a process of its own, with 128 open files at most."""
    files = [tmp_path / f"{number:03}.parquet" for number in range(200)]
    record = {**dict.fromkeys(COLUMNS.names), "split": "train", "width": 4, "height": 3}
    for path in files:
        with record_writer(path) as writer:
            writer.write_table(pa.Table.from_pylist([record], COLUMNS))
    script = (
        "import resource, sys\nfrom pathlib import Path\n"
        "from finecap.engine.reporting.dataset_stats import dataset_stats\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))\n"
        "found = dataset_stats(sorted(Path(sys.argv[1]).glob('*.parquet')), Path(sys.argv[1], 'scratch'))\n"
        "print(sum(split['records'] for split in found['splits'].values()))\n"
    )
    found = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True)
    assert found.stdout.strip() == "200", found.stderr[-500:]


def test_every_image_is_in_the_figures_once(published):
    images = json.loads((published / "stats.json").read_text())["images"]
    assert (images["images"], images["records"]) == (14, 10)
    assert images["rejects"] == {"ingest": {"broken": 4}}


def test_quantiles_and_bins_are_those_of_the_values_one_by_one():
    values = np.random.default_rng(0).lognormal(3, 1, 5000).astype(int)
    figures = summarise_counts(sorted(Counter(values.tolist()).items()))
    for name, share in (("p10", 0.1), ("p50", 0.5), ("p90", 0.9)):
        assert figures[name] == np.quantile(values, share, method="inverted_cdf")
    assert figures["mean"] == pytest.approx(values.mean(), abs=1e-3)
    assert sum(count for _, _, count in figures["bins"]) == 5000
    for start, stop, count in figures["bins"][:-1]:
        assert count == ((values >= start) & (values < stop)).sum()


def test_a_dataset_without_records_is_said_to_be_empty(tmp_path, monkeypatch):
    folder = publish(make_run(tmp_path / "run", monkeypatch, ["00002-c"]))
    assert list((folder / "data").iterdir()) == []
    assert "1 images came in; 0 became records" in (folder / "README.md").read_text()


def test_archives_are_what_webdataset_reads_and_hold_the_records(published):
    for path in sorted((published / "data").iterdir()):
        archive = published / "webdataset" / f"{path.stem}.tar"
        samples = list(webdataset.WebDataset(str(archive), shardshuffle=False))
        records = pq.read_table(path).to_pylist()
        assert len(samples) == len(records)
        for sample, record in zip(samples, records, strict=True):
            stored = record.pop("image")["bytes"]
            assert sample["jpg" if record["id"].endswith("1.x") else "png"] == stored
            assert json.loads(sample["json"]) == record


def test_archives_have_the_same_bytes_whenever_they_are_written(published, tmp_path):
    files = sorted((published / "data").iterdir())
    (first, *_), (again, *_) = export_webdataset(files, tmp_path / "1"), export_webdataset(files, tmp_path / "2")
    assert first.read_bytes() == again.read_bytes()
    with tarfile.open(first) as tar:
        assert {(member.mtime, member.uid, member.mode) for member in tar} == {(0, 0, 0o644)}


def many_records(changed=None, dropped=None):
    """Captions that no compression shrinks much, enough for several pages."""
    draw = random.Random(0)
    captions = [f"{draw.getrandbits(8000):x}" for _ in range(2000)]
    if changed is not None:
        captions[changed] = "a better caption"
    if dropped is not None:
        del captions[dropped]
    nothing = dict.fromkeys(COLUMNS.names)
    return pa.Table.from_pylist([{**nothing, "global_caption": caption} for caption in captions], COLUMNS)


def share_kept(before, after, block=256, samples=200):
    """Share of the blocks drawn from `before` that occur anywhere in `after`."""
    draw = random.Random(1)
    starts = [draw.randrange(len(before) - block) for _ in range(samples)]
    return sum(before[start : start + block] in after for start in starts) / samples


def test_a_changed_or_dropped_caption_leaves_most_of_a_file_as_it_was(tmp_path):
    def written(records, content_defined=True):
        with record_writer(tmp_path / "file", content_defined) as writer:
            writer.write_table(records)
        return (tmp_path / "file").read_bytes()

    dropped = many_records(dropped=1000)
    assert share_kept(written(many_records()), written(many_records(changed=1000))) > 0.85
    assert share_kept(written(many_records()), written(dropped)) > 0.85
    # With a fixed number of rows a page, all pages behind a removed row would be new.
    assert share_kept(written(many_records(), False), written(dropped, False)) < 0.65
