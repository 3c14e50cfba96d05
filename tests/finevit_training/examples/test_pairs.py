"""Pairs of stage II: which caption, at which size, and batches of one number of pairs."""

import numpy as np
import pytest
import torch

from finevit_training.data.bad_records import UnusableRecord
from finevit_training.data.order import RowKey
from finevit_training.data.reader import Planned, Reader
from finevit_training.examples.pairs import Budget, Pairs
from tests.support.dual_cases import make_processor
from tests.support.training_data import row_of, write_records

KEY = RowKey(0, 0, 0, 0)


@pytest.fixture(scope="module")
def processor():
    return make_processor()


@pytest.fixture
def captioned(records):
    return [{**record, "captions": []} for record in records if record["global_caption"]]


def pairs_of(processor, *budgets, **options):
    return Pairs(processor, budgets or (Budget(1.0, 12_544),), **options)


def example_of(pairs, record, fraction=0.0):
    return pairs.example(pairs.draft(row_of(record), KEY, fraction), [record["image"]["bytes"]])


def test_a_batch_holds_what_the_processor_makes_of_each_pair(processor, captioned):
    pairs = pairs_of(processor)
    batch = pairs.collate([[example_of(pairs, record)] for record in captioned[:3]])
    made = [processor(text=record["global_caption"], return_tensors="pt").input_ids[0] for record in captioned[:3]]
    assert torch.equal(batch["input_ids"], torch.stack(made))
    assert batch["lengths"].tolist() == [int((ids != processor.tokenizer.pad_token_id).sum()) for ids in made]
    assert batch["pixel_values"].dtype == torch.uint8
    assert len(batch["pixel_values"]) == int(batch["image_grid_thw"].prod(-1).sum())
    assert batch["ids"] == [record["id"] for record in captioned[:3]]


def test_captions_have_one_number_where_the_model_sees_the_same(processor, captioned):
    pairs = pairs_of(processor)
    texts = ["One chart.", "ONE CHART.", "Another chart."]
    drawn = [{**captioned[0], "id": text, "global_caption": text} for text in texts]
    first, second, third = pairs.collate([[example_of(pairs, one)] for one in drawn])["caption_ids"].tolist()
    assert first == second != third


def test_pictures_grow_at_the_share_of_the_training_that_is_asked_for(processor, captioned):
    record = max(captioned, key=lambda one: one["width"] * one["height"])
    pairs = pairs_of(processor, Budget(0.8, 6272), Budget(1.0, 12_544))
    early, at_border, late = (example_of(pairs, record, fraction) for fraction in (0.0, 0.8, 0.81))
    assert early.draft.patches == at_border.draft.patches < late.draft.patches
    batch = pairs.collate([[late], [early], [late]])
    assert batch["image_grid_thw"].prod(-1).tolist() == [one.draft.patches for one in (late, early, late)]
    alone = pairs.collate([[early]])["pixel_values"]
    assert torch.equal(batch["pixel_values"][late.draft.patches :][: len(alone)], alone)


def test_a_row_without_a_caption_and_a_conversation_are_left_out_and_not_called_bad(processor, captioned):
    pairs = pairs_of(processor)
    for lacking in (None, "", "  "):
        with pytest.raises(UnusableRecord, match="no caption: it has none of") as raised:
            pairs.draft(row_of({**captioned[0], "global_caption": lacking, "captions": []}), KEY, 0.0)
        assert not raised.value.is_bad


def test_the_caption_follows_from_seed_epoch_and_id(processor, captioned):
    styles = [{"style": "dense", "text": f"Word {number}.", "captioner": "x"} for number in range(40)]
    row = row_of({**captioned[0], "captions": styles})

    def drawn(seed=0, epoch=0):
        return pairs_of(processor, seed=seed, shares={"dense": 1.0}).draft(row, RowKey(epoch, 0, 0, 0), 0.0).input_ids

    assert np.array_equal(drawn(), drawn())
    assert not np.array_equal(drawn(), drawn(seed=1))
    assert not np.array_equal(drawn(), drawn(epoch=1))


def test_an_empty_place_repeats_another_pair_so_that_ranks_have_as_many(processor, captioned):
    pairs = pairs_of(processor)
    examples = [example_of(pairs, record) for record in captioned[:2]]
    batch = pairs.collate([[examples[0]], [], [examples[1]], []])
    first, second = (one.draft.id for one in examples)
    assert batch["ids"] == [first, second, first, second]
    assert batch["caption_ids"].tolist()[:2] == batch["caption_ids"].tolist()[2:]
    measured = pairs_of(processor, always_full=False)
    assert measured.collate([[examples[0]], []])["ids"] == [first]
    assert len(measured.collate([[], []])["input_ids"]) == 0
    with pytest.raises(ValueError, match="none of the 2 pictures of a batch can be used"):
        pairs.collate([[], []])


def test_regions_are_drawn_from_those_with_words_and_keep_their_picture(processor, records):
    pairs = pairs_of(processor, max_regions=3)
    chosen = [record for record in records if record["global_caption"] and len(record["regions"]) > 3][:3]
    batch = pairs.collate([[example_of(pairs, record)] for record in chosen])["regions"]
    assert batch["image_sizes"].tolist() == [[record["height"], record["width"]] for record in chosen]
    for box, place, ids in zip(batch["boxes"], batch["image_index"].tolist(), batch["input_ids"], strict=True):
        said = {item["caption"] or item["text"] for item in chosen[place]["regions"] if item["bbox"] == box.tolist()}
        made = [processor(text=text, return_tensors="pt").input_ids[0] for text in said if text]
        assert any(torch.equal(ids, one) for one in made)
    assert torch.bincount(batch["image_index"]).tolist() == [3, 3, 3]
    assert pairs_of(processor).collate([[example_of(pairs_of(processor), chosen[0])]])["regions"] is None


def test_a_broken_picture_is_replaced_and_reported(processor, captioned, tmp_path):
    broken = {**captioned[0], "image": {"bytes": b"no picture", "path": None}}
    data = write_records([broken, *captioned[1:4]], tmp_path / "data")
    reader = reader_of_pairs(data, pairs_of(processor))
    batch, skipped = reader.batch([[Planned(RowKey(0, 0, row, 0), 1, 0.0)] for row in range(3)])
    assert [one.id for one in skipped] == [broken["id"]]
    assert len(batch["ids"]) == 3
    assert broken["id"] not in batch["ids"]


def reader_of_pairs(data, pairs):
    from finevit_training.data.source import open_data

    opened = open_data([data], "train")
    return Reader(opened.sources, opened.parts, opened.order(0, 1), pairs)


def test_what_decides_the_drafts_is_told(processor):
    plain = pairs_of(processor).facts()
    assert pairs_of(processor).facts() == plain
    others = [
        pairs_of(processor, Budget(1.0, 6272)),
        pairs_of(processor, Budget(0.5, 12_544), Budget(1.0, 12_544)),
        pairs_of(processor, seed=1),
        pairs_of(processor, max_regions=2),
        pairs_of(processor, shares={"global": 1.0}),
        pairs_of(make_processor(16)),
    ]
    assert all(other.facts() != plain for other in others)
