"""What a loading process keeps of the pictures, and how it counts and replaces those that cannot be used."""

from collections import Counter

import pytest

from finecap.sources.door import Source
from tests.support.training_data import ids_of, loader_of, reader_of, write_records

MIXTURE = {"qa": 100, "transcribe": 1, "global_caption": 1}


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_a_picture_that_cannot_be_decoded_is_counted_once(records, tmp_path, processor, share):
    broken = {record["id"] for record in records[: int(share * len(records))]}
    rows = [{**one, "image": {"bytes": b"no", "path": None}} if one["id"] in broken else one for one in records]
    reader = reader_of([write_records(rows, tmp_path / "rows", row_group_size=24)], processor, mixture=MIXTURE)
    tried, counted = [], []

    def on_rows(count, skipped):
        tried.append(count)
        counted.extend(skip.id for skip in skipped)

    trained = ids_of(loader_of(reader, on_rows=on_rows))
    assert Counter(counted) == Counter(dict.fromkeys(broken, 1))
    assert sum(tried) == len(records)
    assert not broken & set(trained)
    assert bool(trained) == (share < 1)


@pytest.mark.parametrize("held", [1, 30_000, 100_000, 200_000])
def test_however_few_pictures_are_kept_every_sample_comes(records, tmp_path, processor, monkeypatch, held):
    monkeypatch.setattr("finevit_training.data.reader.HELD_BYTES", held)
    data = {"path": write_records(records, tmp_path / "rows"), "weight": 3}
    reader = reader_of([data], processor, mixture=MIXTURE, window_rows=8, streams=8)
    assert Counter(ids_of(loader_of(reader))) == Counter({record["id"]: 3 for record in records})


@pytest.mark.parametrize("bad", [0, 1, 6, 24])
def test_replacements_read_a_row_group_once_more_at_most(records, tmp_path, processor, monkeypatch, bad):
    broken = {record["id"] for record in records[::2][:bad]}
    rows = [{**one, "image": {"bytes": b"no", "path": None}} if one["id"] in broken else one for one in records]
    reader = reader_of([write_records(rows, tmp_path / "rows", row_group_size=48)], processor, mixture=MIXTURE)
    reads, read = [], Source.read_pictures
    monkeypatch.setattr(Source, "read_pictures", lambda *args: reads.append(args) or read(*args))
    seen = ids_of(loader_of(reader))
    assert len(seen) > len(records) - bad or not bad, "some were replaced"
    assert len(reads) <= (2 if bad else 1)
