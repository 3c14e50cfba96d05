"""What a recipe's `data` opens: errors that name the source, weights, and an epoch of about so many rows."""

import json
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finevit_training.data.order import UNKNOWN_ROWS, RoundKey
from finevit_training.data.source import Data, open_data
from finevit_training.stages.running import Run, train
from finevit_training.stages.sft.stage import STAGE, build_trainer
from tests.support.sources import picture
from tests.support.training_data import loader_of, reader_of, write_records


@pytest.fixture
def folders(records, tmp_path):
    """Sources of 32 and of 16 records, in parts of two rows."""
    return [
        write_records(part, tmp_path / name, row_group_size=2)
        for name, part in (("a", records[:32]), ("b", records[32:]))
    ]


def rows_of(data, order, epoch=0):
    """How often each (source, row of its part list) comes in an epoch."""
    seen = Counter()
    for number in range(order.num_rounds(epoch)):
        for window in order.windows(RoundKey(epoch, number)):
            counts = [data.parts[piece.part][1].rows for piece in order.pieces(window)]
            seen.update((key.part, key.row) for key in order.row_keys(window, counts))
    return seen


def of_source(data, seen, number):
    return {key: count for key, count in seen.items() if data.parts[key[0]][0] == number}


def test_parts_of_all_sources_are_numbered_in_the_recipes_order(folders):
    data = open_data(folders, "train")
    assert [source.name for source in data.sources] == ["a", "b"]
    assert [number for number, _ in data.parts] == [0] * 16 + [1] * 8
    assert data.rows == 48


@pytest.mark.parametrize(
    "broken", ["no/such/folder", {"path": "no/such/folder", "weight": 2}, {"path": ".", "weight": 0}, {"weight": 2}, 7]
)
def test_a_source_that_cannot_be_opened_is_named_among_the_others(folders, broken):
    with pytest.raises(ValueError, match=r"in `data` cannot be opened") as error:
        open_data([folders[0], broken, folders[1]], "train")
    assert str(error.value).startswith(repr(broken))


def test_a_source_without_the_split_says_so(folders):
    with pytest.raises(ValueError, match=r"in `data` cannot be opened.*validation"):
        open_data(folders, "validation")


def test_a_weight_is_how_often_the_rows_of_its_source_come_in_an_epoch(folders):
    data = open_data([{"path": folders[0], "weight": 0.25}, {"path": folders[1], "weight": 2}], "train")
    seen = [rows_of(data, data.order(seed=3, step=1), epoch) for epoch in range(40)]
    assert all(set(of_source(data, one, 1).values()) == {2} for one in seen)
    assert all(len(of_source(data, one, 1)) == 16 for one in seen)
    drawn = [len(of_source(data, one, 0)) for one in seen]
    assert sum(drawn) / len(drawn) == pytest.approx(0.25 * 32, rel=0.1)
    assert len({frozenset(of_source(data, one, 0)) for one in seen}) == 40, "another share each epoch"


def test_most_rows_draws_about_so_many_from_all_sources_the_same_ones_each_time(folders):
    data = open_data(folders, "train")
    seen = rows_of(data, data.order(seed=0, step=1, most_rows=12))
    assert seen == rows_of(open_data(folders, "train"), data.order(seed=0, step=1, most_rows=12))
    assert set(seen.values()) == {1}
    sizes = [rows_of(data, data.order(seed=seed, step=1, most_rows=12)).total() for seed in range(60)]
    assert sum(sizes) / len(sizes) == pytest.approx(12, rel=0.1)
    assert of_source(data, seen, 0)
    assert of_source(data, seen, 1)


def test_more_than_there_are_is_all(folders):
    data = open_data(folders, "train")
    assert rows_of(data, data.order(seed=0, step=1, most_rows=1000)) == dict.fromkeys(
        ((part, row) for part in range(24) for row in range(2)), 1
    )


def test_parts_that_nobody_has_counted_are_taken_for_some_thousand_rows(folders):
    data = open_data(folders, "train")
    uncounted = [(number, type(part)(part.path, 0, None)) for number, part in data.parts]
    unknown = Data(data.sources, uncounted)
    assert unknown.rows is None
    assert unknown.order(seed=0, step=1).rows.tolist() == [UNKNOWN_ROWS] * 24


def skipped_of(data, processor):
    """What a run over the data leaves out."""
    skipped = []
    reader = reader_of(data, processor, mixture={"global_caption": 1})
    for _ in loader_of(reader, on_rows=lambda tried, rows: skipped.extend(rows)):
        pass
    return skipped


def test_rows_of_several_sources_that_are_left_out_are_told_apart(tmp_path, processor):
    for folder in ("mine/photos", "theirs/photos"):
        (tmp_path / folder).mkdir(parents=True)
        for name in ("good.png", "cut.png"):
            (tmp_path / folder / name).write_bytes(picture(0, (56, 56)) if name == "good.png" else b"no")
            (tmp_path / folder / name).with_suffix(".txt").write_text("A picture.")
    both = [str(tmp_path / "mine/photos"), str(tmp_path / "theirs/photos")]
    assert [skip.id for skip in skipped_of(both[:1], processor)] == ["cut.png"]
    assert sorted(skip.id for skip in skipped_of(both, processor)) == ["photos (2): cut.png", "photos: cut.png"]
    assert sorted(skip.id for skip in skipped_of([both[0]] * 2, processor)) == [
        "photos (2): cut.png",
        "photos: cut.png",
    ]


def test_ids_that_llava_gives_to_several_rows_merge_none_of_them(tmp_path, processor):
    rows = [{"id": "000000033471", "image": "gone.png", "conversations": [{"from": "human", "value": "?"}]}] * 2
    (tmp_path / "llava.json").write_text(json.dumps(rows))
    assert sorted(skip.id for skip in skipped_of([str(tmp_path / "llava.json")], processor)) == [
        "llava.json#0",
        "llava.json#1",
    ]


def test_rows_of_another_split_are_left_out_and_are_no_bad_rows(tmp_path, processor):
    (tmp_path / "a.png").write_bytes(picture(0, (56, 56)))
    rows = [
        {"file_name": name, "text": "t", "split": split} for name, split in (("a.png", "train"), ("a.png", "test"))
    ]
    rows.append({"file_name": "gone.png", "text": "t", "split": "train"})
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    skipped = {skip.id: skip.is_bad for skip in skipped_of([str(tmp_path)], processor)}
    assert skipped == {"metadata.jsonl#1": False, "metadata.jsonl#2": True}


def test_where_training_starts_it_says_what_it_reads_and_what_it_is_measured_on(recipe_for, tmp_path, capsys):
    table = pa.table({"image": [picture(0, (56, 56))] * 4, "caption": ["a"] * 4, "mesages": ["m"] * 4})
    pq.write_table(table, tmp_path / "typo.parquet")
    pq.write_table(table.slice(0, 1), tmp_path / "held_out.parquet")
    recipe = recipe_for(
        data=tmp_path / "typo.parquet",
        eval_data=tmp_path / "held_out.parquet",
        eval_strategy="steps",
        mixture='{"global_caption": 1}',
        max_steps=1,
    )
    train(Run(STAGE, recipe, build_trainer(recipe), None))
    said = capsys.readouterr().out.splitlines()
    assert said.count("typo (captions): columns that are not read: mesages") == 1
    assert any(line.startswith(f"4 rows of {tmp_path / 'typo.parquet'}, 1 step, bf16") for line in said)
    assert f"1 row of {tmp_path / 'held_out.parquet'}, split train, for the evaluation" in said
