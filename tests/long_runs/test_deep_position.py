"""A position deep in the run: the first batch takes seconds, however much data lies before it."""

import os
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finevit_training.data.loader import PackedLoader, Position, Shape
from finevit_training.data.reader import Reader
from finevit_training.data.source import open_data
from finevit_training.examples.conversation import Conversations
from tests.support.sources import picture
from tests.support.vl_fixtures import processor, tokenizer

__all__ = ["processor", "tokenizer"]

GROUPS, ROWS = 10, 256
# Files: about ten million rows, and twenty thousand.
LARGE, SMALL = 3907, 8


def many_rows(folder, files):
    """Files of the same row groups; each is one file on the disk with many names."""
    columns = {"image": [picture(number, (84, 84)) for number in range(ROWS)], "caption": ["a plain colour"] * ROWS}
    table = pa.table({**columns, "width": [84] * ROWS, "height": [84] * ROWS})
    first = folder / "train-00000.parquet"
    pq.write_table(pa.concat_tables([table] * GROUPS), first, row_group_size=ROWS)
    for number in range(1, files):
        os.link(first, folder / f"train-{number:05d}.parquet")
    return str(folder)


def first_batch(folder, processor, position):
    """What the source gives at a position, and the seconds from opening it to the first batch."""
    start = time.monotonic()
    data = open_data([folder], "train")
    shape = Shape(capacity=1024, rows=2)
    order = data.order(seed=0, step=shape.step)
    reader = Reader(data.sources, data.parts, order, Conversations(processor, 1024, {"global_caption": 1}))
    loader = PackedLoader(reader, shape, lambda key, step: 0.0, steps=10**9)
    fractions = [[position.epoch, position.round, 0.0]]
    loader.load_state_dict({**loader.state_dict(), **position._asdict(), "fractions": fractions})
    batch = next(iter(loader))
    return data, loader, batch, time.monotonic() - start


@pytest.mark.slow
def test_deep_in_ten_million_rows(processor, tmp_path):
    deep = Position(epoch=2, round=1100, pack=40, packs=2_500_000, samples=25_000_000)
    data, loader, batch, seconds = first_batch(many_rows(tmp_path, LARGE), processor, deep)
    assert data.rows == LARGE * GROUPS * ROWS == 10_001_920
    assert loader.order.num_rounds(2) > 1200
    assert set(batch["epochs"]) == {2}
    assert loader.position[:4] == (2, 1100, 42, 2_500_002)
    assert loader.position.samples == deep.samples + len(batch["ids"])
    assert seconds < 40  # 10 on two cores; ten million rows before it would take hours
    print(f"10 million rows: first batch after {seconds:.1f} s")


@pytest.mark.slow
def test_step_100_000_of_a_smaller_source(processor, tmp_path):
    deep = Position(epoch=97, round=3, pack=8, packs=200_000, samples=2_000_000)
    data, loader, batch, seconds = first_batch(many_rows(tmp_path, SMALL), processor, deep)
    assert data.rows == 20_480
    assert loader.position.packs // loader.shape.step == 100_001
    assert set(batch["epochs"]) == {97}
    assert seconds < 20
    print(f"step 100,000: first batch after {seconds:.1f} s")
