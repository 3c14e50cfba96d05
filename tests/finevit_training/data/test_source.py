"""Records behind sample keys: random streams, stand-ins for records that cannot be used, rough lengths."""

import pytest

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
