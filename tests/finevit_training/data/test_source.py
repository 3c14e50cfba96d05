"""Records behind sample keys: random streams, stand-ins for records that cannot be used, rough lengths."""

import shutil
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finecap.features import FINECAP_FEATURES
from finevit_training.data.order import SampleKey
from finevit_training.data.source import RecordDataset, Sample, estimate_lengths, load_records


def test_random_streams_differ_by_seed_epoch_and_index():
    def stream(seed, epoch, index):
        return Sample(SampleKey(epoch, index, 0.0), {}).stream(seed)

    assert stream(1, 2, 3) == stream(1, 2, 3)
    assert len({stream(1, 2, 3), stream(2, 2, 3), stream(1, 3, 3), stream(1, 2, 4)}) == 4


def test_replacements_follow_from_seed_epoch_and_index_and_keep_the_progress(records):
    dataset = RecordDataset(records)

    def first(seed, epoch, index, count=5):
        replacements = dataset[SampleKey(epoch, index, 0.25)].replacements(seed)
        return [next(replacements).key for _ in range(count)]

    assert first(1, 2, 3) == first(1, 2, 3)
    assert len({tuple(first(*args)) for args in ((1, 2, 3), (2, 2, 3), (1, 3, 3), (1, 2, 4))}) == 4
    assert {(key.epoch, key.fraction) for key in first(1, 2, 3)} == {(2, 0.25)}


def test_missing_corpus_says_how_to_build_one(tmp_path):
    with pytest.raises(ValueError, match="finevit corpus build"):
        load_records([str(tmp_path)], "train")


def test_lengths_are_estimated_without_decoding(records):
    lengths = estimate_lengths(records)
    assert len(lengths) == len(records)
    assert min(lengths) > 9
    assert len(set(lengths)) > 5


def test_lengths_of_records_with_holes_are_estimated_too(records):
    hollow = {"width": None, "height": 100, "qa": None, "regions": [None]}
    rows = records.select(range(2)).to_list()
    holes = type(records).from_list([rows[0], {**rows[1], **hollow}], features=records.features)
    assert estimate_lengths(holes)[1] == 0


@pytest.fixture
def hub_cache(nano_corpus, tmp_path, monkeypatch):
    """`owner/records` as `datasets` keeps it after a download, without a network; `owner/other` is no FineCap."""
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for name, columns in (("records", None), ("other", ["id", "image"])):
        files = {"train": str(nano_corpus / "data" / "*.parquet")}
        made = datasets.load_dataset("parquet", data_files=files, columns=columns, cache_dir=tmp_path / name)
        folder = Path(made["train"].cache_files[0]["filename"]).parent
        kept = tmp_path / "cache" / f"owner___{name}" / "default" / "0.0.0" / folder.name
        shutil.copytree(folder, kept)
        (kept / "parquet-train.arrow").rename(kept / f"{name}-train.arrow")


def test_records_come_from_the_hub_by_their_id(hub_cache, nano_corpus, records):
    assert load_records(["owner/records"], "train")["id"] == records["id"]
    both = load_records(["owner/records", str(nano_corpus)], "train")
    assert both["id"] == [*records["id"], *records["id"]]


@pytest.mark.parametrize(
    ("given", "split", "word"),
    [
        ("owner/other", "train", "no FineCap records: they lack .'width'"),
        ("owner/nothing", "train", "'owner/nothing' in `data` cannot be loaded.*finevit corpus build"),
        ("owner/records", "test", "split 'test' of 'owner/records'"),
    ],
)
def test_what_the_hub_does_not_give_is_named(hub_cache, given, split, word):
    with pytest.raises(ValueError, match=word):
        load_records([given], split)


@pytest.mark.parametrize("given", ["outputs/corpuss", "corpus", "./owner/name", "/no/corpus"])
def test_a_mistyped_path_is_an_error_before_the_network_is_asked(given, tmp_path, monkeypatch):
    (tmp_path / "outputs" / "corpus").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets, "load_dataset", None)  # whatever would ask it
    with pytest.raises(ValueError, match=r"holds no data/train-\*.*finevit corpus build"):
        load_records([given], "train")


def write_corpus(folder, rows, schema=FINECAP_FEATURES.arrow_schema):
    (folder / "data").mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "data" / "train-00000-of-00001.parquet")


@pytest.fixture
def rows(nano_corpus):
    return pq.read_table(next((nano_corpus / "data").glob("*.parquet"))).to_pylist()


def test_what_lies_in_a_folder_now_is_read_whatever_another_of_its_name_held(rows, tmp_path):
    first, second = tmp_path / "one" / "corpus", tmp_path / "two" / "corpus"
    write_corpus(first, rows[:5])
    assert len(load_records([str(first)], "train")) == 5
    write_corpus(second, rows[:3])
    assert len(load_records([str(second)], "train")) == 3
    write_corpus(first, rows[5:12])
    assert list(load_records([str(first)], "train")["id"]) == [row["id"] for row in rows[5:12]]
    assert len(load_records([str(first), str(second)], "train")) == 10


def test_records_of_another_version_are_named(rows, tmp_path):
    schema = FINECAP_FEATURES.arrow_schema.remove_metadata()
    schema = schema.set(schema.get_field_index("width"), pa.field("width", pa.string()))
    write_corpus(tmp_path, [{**row, "width": str(row["width"])} for row in rows[:2]], schema)
    with pytest.raises(ValueError, match=r"its columns \['width'\] are not those"):
        load_records([str(tmp_path)], "train")
