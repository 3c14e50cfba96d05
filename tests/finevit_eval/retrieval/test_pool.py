"""A pool is the same whatever the order of the rows, and holds no caption twice."""

import pytest
from datasets import Dataset

from finecap.features import FINECAP_FEATURES
from finevit_eval.retrieval.pool import choose_pairs, fingerprint, read_pictures


@pytest.fixture
def write(make_record, tmp_path):
    """Texts of short captions -> a folder of one test shard; ids are in the order of the texts.

    Args:
        before: captions that stand before it in each record.
    """

    def write(texts, name="data", flip=False, before=()):
        rows = [
            {**make_record(number), "captions": [*before, {"style": "short", "text": text, "captioner": "me"}]}
            for number, text in enumerate(texts)
        ]
        folder = tmp_path / name
        (folder / "data").mkdir(parents=True)
        path = folder / "data" / "test-00000-of-00001.parquet"
        Dataset.from_list(rows[::-1] if flip else rows, features=FINECAP_FEATURES).to_parquet(path)
        return folder

    return write


def chosen(folder, limit=None, seed=0):
    return choose_pairs(folder, "test", "short", limit, seed)


def test_of_captions_that_are_the_same_the_first_id_stays(write):
    pairs = chosen(write(["a cat", "A Cat", " ", None, "a dog"]))
    assert [(pair.id, pair.caption) for pair in pairs] == [("record-0", "a cat"), ("record-4", "a dog")]


def test_an_item_of_captions_that_is_null_is_passed_over(write):
    pairs = chosen(write(["a cat", "a dog"], before=[None]))
    assert [pair.caption for pair in pairs] == ["a cat", "a dog"]


def test_the_order_of_the_rows_changes_nothing(write):
    texts = ["a", "b", "a", "c", "d", "e"]
    one, other = chosen(write(texts), limit=3), chosen(write(texts, "flipped", flip=True), limit=3)
    assert sorted(pair[:2] for pair in one) == sorted(pair[:2] for pair in other)
    assert len(one) == 3
    assert sorted(pair[:2] for pair in one) != sorted(pair[:2] for pair in chosen(write(texts, "again"), 3, seed=1))


def test_each_pair_is_read_with_its_own_picture(write, make_record):
    for pair, data in read_pictures(chosen(write(["a", "b", "c"], flip=True))):
        assert data == make_record(int(pair.id[-1]))["image"]["bytes"]


def test_the_fingerprint_tells_captions_and_pictures():
    pairs = [("r1", "a cat", "x"), ("r2", "a dog", "y")]
    assert fingerprint(reversed(pairs)) == fingerprint(pairs)
    others = [("r1", "a cat", "z"), ("r2", "a dog", "y")], [("r1", "a cow", "x"), ("r2", "a dog", "y")], pairs[:1]
    assert len({fingerprint(other) for other in (pairs, *others)}) == 4


def test_a_split_without_captions_of_the_style_is_refused(write):
    with pytest.raises(ValueError, match="1 pictures with different captions of style 'short'"):
        chosen(write(["a", "A"]))
    with pytest.raises(ValueError, match=r"0 pictures.*'dense'"):
        choose_pairs(write(["a", "b"], "other"), "test", "dense", None, 0)
