"""Records in a parquet file, read as a training reads them."""

import itertools

import pyarrow as pa
import pyarrow.parquet as pq

from finecap.features import FINECAP_FEATURES
from finecap.sources.rows import Row
from finevit_training.data.loader import PackedLoader, Shape
from finevit_training.data.order import Order, RoundKey
from finevit_training.data.plan import Sized
from finevit_training.data.reader import Reader
from finevit_training.data.source import UNKNOWN_ROWS, open_data
from finevit_training.examples.conversation import Conversations

_numbers = itertools.count()


def write_records(records, folder, row_group_size=8):
    """A FineCap folder with one file of these records, as a recipe names it."""
    (folder / "data").mkdir(parents=True)
    table = pa.Table.from_pylist(records, schema=FINECAP_FEATURES.arrow_schema)
    pq.write_table(table, folder / "data" / "train-00000-of-00001.parquet", row_group_size=row_group_size)
    return str(folder)


def reader_of(data, processor, seed=0, window_rows=16, streams=4, max_length=2048, **flags):
    """Reads sources as conversations, in small windows."""
    return reader_with(Conversations(processor, max_length, seed=seed, **flags), data, seed, window_rows, streams)


def reader_with(examples, data, seed=0, window_rows=16, streams=4):
    """Reads sources as a stage's examples, in small windows."""
    opened = open_data(data, "train")
    rows = [UNKNOWN_ROWS if part.rows is None else part.rows for _, part in opened.parts]
    order = Order(rows, [opened.sources[number].weight for number, _ in opened.parts], seed, window_rows, streams)
    return Reader(opened.sources, opened.parts, order, examples)


def loader_of(reader, rows=1, fraction=0.0, **options):
    """The loader of a run that is at `fraction` all the time."""
    shaped = {name: options.pop(name) for name in ("accumulation", "ranks", "rank") if name in options}
    facts = reader.examples.facts()
    capacity = facts["max_length"] if "max_length" in facts else facts["max_patches"]
    return PackedLoader(reader, Shape(capacity, rows, **shaped), lambda key, step: fraction, **options)


def lengths_of_all_windows(reader, epochs=3):
    """What the ranks of a run tell each other, made by one."""
    sized, order = {}, reader.order
    keys = (RoundKey(epoch, number) for epoch in range(epochs) for number in range(order.num_rounds(epoch)))
    for key in keys:
        for window in order.windows(key):
            found = reader.drafts(window, 0.0)
            pairs = zip(found.keys, found.drafts, strict=True)
            sized[window] = [Sized(row, len(draft), draft.patches) for row, draft in pairs]
    return sized


def ids_of(batches):
    return [record_id for batch in batches for record_id in batch["ids"]]


def row_of(record):
    """A record as a source gives it: without its picture."""
    size = record["width"], record["height"]
    return Row(record["id"], [size], record={**record, "image": {"bytes": None, "path": None}})
