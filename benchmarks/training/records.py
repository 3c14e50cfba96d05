"""What the benchmarks of training read: JPEGs of mixed sizes as FineCap records, and the reader of a run."""

import random
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.engine.ingest import photographs
from finecap.corpus.build import generate
from finecap.features import FINECAP_FEATURES
from finecap.pictures import encoded
from finecap.records import Record, new_record, region
from finevit_training.data.reader import Reader
from finevit_training.data.source import open_data
from finevit_training.examples.conversation import Conversations
from finevit_vl import FineViTVLProcessor

SIDES = (300, 1600)  # the longer side of a photograph, in pixels
QUALITIES = (75, 92)  # of JPEG, as the web has them
MOST_TURNS = 8  # about a picture
PAGES = 0.25  # the share of pages among the pictures
WORDS = [f"{first}{last}" for first in ("red", "old", "left", "dark", "round") for last in ("", "ish", "er", "ness")]
MIXTURE = {"qa": 6, "transcribe": 0.5, "caption_to_box": 1, "box_to_caption": 1, "text_to_box": 1, "global_caption": 1}


def words(stream: random.Random, fewest: int, most: int) -> str:
    """A text of so many words."""
    return " ".join(stream.choices(WORDS, k=stream.randint(fewest, most)))


def photograph_record(number: int, seed: int, originals: list[Image.Image], sides: tuple[int, int] = SIDES) -> Record:
    """A piece of a photograph in a size and quality as the web has them, and texts as long as FineCap's.

    Args:
        sides: least and most pixels of the longer side.
    """
    stream = random.Random(f"{seed}/{number}")
    original = originals[number % len(originals)]
    width, height = (int(side * stream.uniform(0.6, 1.0)) for side in original.size)
    left, top = stream.randint(0, original.width - width), stream.randint(0, original.height - height)
    scale = stream.uniform(*sides) / max(width, height)
    size = round(width * scale), round(height * scale)
    picture = original.crop((left, top, left + width, top + height)).resize(size, Image.Resampling.BICUBIC)
    boxes = [(0, 0, size[0] // place, size[1] // place) for place in range(1, stream.randint(2, 5))]
    return new_record(
        f"photograph-{number:05d}",
        encoded(picture, "JPEG", quality=stream.randint(*QUALITIES)),
        size,
        "benchmark",
        "see package",
        "train",
        [region(box, "object", words(stream, 1, 2), caption=words(stream, 5, 20)) for box in boxes],
        [
            {"question": f"{words(stream, 6, 14)}?", "answers": [words(stream, 1, 12)], "kind": "vqa"}
            for _ in range(stream.randint(1, 4))
        ],
        words(stream, 40, 160),
    )


def mixed_records(count: int, seed: int, sides: tuple[int, int] = SIDES) -> list[Record]:
    """Photographs and, `PAGES` of them, pages of the corpus at level base, in random order.

    Args:
        sides: least and most pixels of a photograph's longer side.
    """
    originals = photographs()
    pages = round(count * PAGES)
    records = [generate("doc", number, seed, "train", "base") for number in range(pages)]
    records += [photograph_record(number, seed, originals, sides) for number in range(count - pages)]
    return [records[place] for place in np.random.default_rng(seed).permutation(count)]


def write_records(records: list[Record], folder: Path, rows_of_group: int = 64) -> Path:
    """A FineCap folder with one parquet file."""
    (folder / "data").mkdir(parents=True)
    table = pa.Table.from_pylist(records, schema=FINECAP_FEATURES.arrow_schema)
    pq.write_table(table, folder / "data" / "train-00000-of-00001.parquet", row_group_size=rows_of_group)
    return folder


def reader_of(
    folder: Path,
    processor: FineViTVLProcessor,
    max_length: int,
    seed: int = 0,
    mixture: Mapping[str, float] | None = None,
) -> Reader:
    """The reader of a run over these records."""
    data = open_data([str(folder)], "train")
    examples = Conversations(processor, max_length, mixture or MIXTURE, seed, MOST_TURNS)
    return Reader(data.sources, data.parts, data.order(seed, step=1), examples)
