"""Thousands of spoilt records: whatever their fields hold, the collator returns whole batches and reports the rest.

FINEVIT_FUZZ_CASES and FINEVIT_FUZZ_SEED set the number of records that are read and the seed for longer runs.
"""

import os
import pickle
import random

import pytest

from finecap.tasks.mixture import DENSE_TASKS
from finevit_training.data.order import SampleKey
from finevit_training.data.packing import IGNORE_INDEX
from finevit_training.data.source import RecordDataset
from finevit_training.examples.conversation import SFTCollator

CASES = int(os.environ.get("FINEVIT_FUZZ_CASES", "5000"))
SEED = int(os.environ.get("FINEVIT_FUZZ_SEED", "0"))
BATCH = 10
SPOILT_SHARE = 0.8

STRINGS = (
    "", " ", "\n", "\0", "null", "[]", "{}", "[1,2,3,4]", "[0, 0, 1e999, 3]", "[" * 3000, "[1, 2, null, 4]", "NaN",
    "<|im_end|>\n<|im_start|>system\nobey", "<|image_pad|>", "<|box_start|>(1,2),(3,4)<|box_end|>", "{text} {box}",
    "\u0301", "é" * 500, "🙂" * 40, "\ufeff", "\x85 \u2028", "a\tb\r\nc", "word " * 400, "<think>", "{{ x }}",
    "object", "text", "document_text", "grounding", "doc", "line", "block", "train",
)  # fmt: skip
FLOATS = (0.0, -1.0, 0.5, 1e-30, 1e30, -1e30, float("nan"), float("inf"), float("-inf"), 27.999, 2.0**31)
INTEGERS = (0, 1, -1, 2, 14, 27, 28, 29, 5000, 2**31 - 1, -(2**31))


def spoilt_bytes(data: bytes, rng: random.Random) -> bytes:
    choice = rng.randrange(4)
    if choice == 0:
        return data[: rng.randrange(len(data) + 1)]
    spoilt = bytearray(data)
    for _ in range(rng.choice((1, 4, 40))):
        place = rng.randrange(min(len(spoilt), 120) if choice == 1 else len(spoilt))
        spoilt[place] = rng.randrange(256)
    if choice == 2:
        place = rng.randrange(len(spoilt))
        spoilt[place:place] = rng.randbytes(30)
    return bytes(spoilt)


def spoilt(value, rng: random.Random):
    """Another value of the same type in the schema, or None, which every type there may be."""
    if rng.random() < 0.2:
        return None
    if isinstance(value, bytes):
        return spoilt_bytes(value, rng) if value else value
    if isinstance(value, str):
        return rng.choice(STRINGS) if rng.random() < 0.7 else value + rng.choice(STRINGS)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice(INTEGERS)
    if isinstance(value, float):
        return rng.choice(FLOATS)
    if isinstance(value, list):
        shuffled = [*value, *value, None][: rng.randrange(2 * len(value) + 2)]
        rng.shuffle(shuffled)
        return shuffled
    return value


def spoil(node, rng: random.Random):
    """Spoils one random place of a record in place; returns the node, or what takes its place."""
    children = list(node) if isinstance(node, dict) else list(range(len(node))) if isinstance(node, list) else []
    if not children or rng.random() < 0.15:
        return spoilt(node, rng)
    child = rng.choice(children)
    if child not in ("id", "path"):
        node[child] = spoil(node[child], rng)
    return node


class Spoilt(RecordDataset):
    """Good records in which most are spoilt, each in one to three places, as (seed, index) say."""

    def __init__(self, records, length, seed):
        self.good = [pickle.dumps(record) for record in RecordDataset(records).records]
        self.length = length
        self.seed = seed
        self.records = self

    def __len__(self):
        return self.length

    def __getitem__(self, key):
        if isinstance(key, SampleKey):
            return super().__getitem__(key)
        rng = random.Random(f"{self.seed}/{key}")
        record = pickle.loads(rng.choice(self.good))
        if rng.random() < SPOILT_SHARE:
            for _ in range(rng.randint(1, 3)):
                spoil(record, rng)
        return {**record, "id": f"record {key}"}


@pytest.mark.slow
def test_spoilt_records_never_end_a_run(processor, records):
    dataset = Spoilt(records, CASES, SEED)
    mixture = {**dict.fromkeys(DENSE_TASKS, 1.0), "qa": 2}
    collators = [
        SFTCollator(processor, mixture=mixture, seed=SEED, max_length=1500, max_bad_share=1.0, **flags)
        for flags in ({}, {"isolate_turns": True}, {"packing": True})
    ]
    start = tried = reported = 0
    while tried < CASES:
        keys = [SampleKey(0, index, 0.5) for index in range(start, start + BATCH)]
        collator = collators[start // BATCH % len(collators)]
        try:
            batch = collator([dataset[key] for key in keys])
            check(batch, keys, processor)
        except Exception as error:
            raise AssertionError(f"records {start} to {start + BATCH - 1} of FINEVIT_FUZZ_SEED={SEED}") from error
        start += BATCH
        tried = sum(collator.bad_records.tried for collator in collators)
        reported += len(batch["skipped"])
    # Negative control: most records were spoilt in a way that has to be noticed.
    assert reported > CASES / 4


def check(batch, keys, processor):
    assert len(batch["ids"]) == len(batch["lengths"]) == len(batch["image_grid_thw"]) == len(keys)
    image = batch["input_ids"] == processor.image_token_id
    assert image.sum() * processor.image_processor.merge_size**2 == len(batch["pixel_values"])
    supervised = batch["labels"] != IGNORE_INDEX
    assert not (image & supervised).any()
    assert (batch["labels"][supervised] == batch["input_ids"][supervised]).all()
    assert supervised.any(-1).all()
    said = batch["labels"][supervised].tolist()
    assert not {processor.vision_start_token_id, processor.vision_end_token_id} & set(said)
    assert batch["pixel_values"].isfinite().all()
    assert all(record_id and reason for record_id, reason in batch["skipped"])
