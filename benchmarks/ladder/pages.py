"""Pages of 1:3 to 3:1, and the same pages resized to squares of about as many pixels.

The corpus' own documents, drawn on other sheets. Both sets hold the same pages with the same questions, so a model
that reads the first better has the aspect ratios to thank for it.
"""

import dataclasses
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.ladder.arms import NATIVE_PAGES, SQUARE_PAGES
from benchmarks.ladder.sizes import Size
from finecap.corpus.documents.document import LICENSE, draw
from finecap.corpus.documents.page import Document
from finecap.corpus.drawing.raster import encode_png
from finecap.corpus.levels import DocLevel, level_of
from finecap.features import FINECAP_FEATURES
from finecap.files import committed
from finecap.records import Record, Region, new_record
from finecap.shards.layout import split_file

SPLITS = {"train": 0.85, "test": 0.15}
MOST_LINES = 4  # of a typed form; as many as the lowest sheet has room for


def build_pages(data: Path, size: Size) -> None:
    """Writes both sets below `data` as FineCap records; what is there stays."""
    for split, share in SPLITS.items():
        files = {name: split_file(data / name, split, 0, 1) for name in (NATIVE_PAGES, SQUARE_PAGES)}
        if all(path.exists() for path in files.values()):
            continue
        pages = [page(index, split, size) for index in range(round(size.page_rows * share))]
        for name, path in files.items():
            records = [
                record(f"{name}-{split}-{at}", one, split, name == SQUARE_PAGES) for at, one in enumerate(pages)
            ]
            table = pa.Table.from_pylist(records, schema=FINECAP_FEATURES.arrow_schema)
            with committed(path) as aside:
                pq.write_table(table, aside, row_group_size=100)


def page(index: int, split: str, size: Size) -> Document:
    """Page number `index` of a split, clean and with all its words inside."""
    rng = random.Random(f"ladder-page/{size.difficulty}/{split}/{index}")
    sheet = rng.choice(size.page_sizes)
    level: DocLevel = level_of(size.difficulty).doc
    level = dataclasses.replace(level, sizes=(sheet,))
    if level.cell:
        level = dataclasses.replace(level, lines=(2, MOST_LINES))
    while True:  # a word of a typed form may be too long for a narrow sheet
        drawn = draw(rng, level, split)
        if all(one["bbox"][2] <= sheet[0] and one["bbox"][3] <= sheet[1] for one in drawn.regions):
            return drawn


def record(name: str, drawn: Document, split: str, square: bool) -> Record:
    """The page as a record; resized to a square of as many pixels where that is asked for, its boxes as well."""
    image, regions = squared(drawn.image, drawn.regions) if square else (drawn.image, drawn.regions)
    facts = ("finevit-docs", LICENSE, split, regions, drawn.questions, drawn.caption)
    return new_record(name, encode_png(image), image.size, *facts)


def squared(image: Image.Image, regions: list[Region]) -> tuple[Image.Image, list[Region]]:
    """A picture and its boxes, resized to a square of the same area."""
    width, height = image.size
    side = round((width * height) ** 0.5)
    scale = (side / width, side / height) * 2
    moved: list[Region] = []
    for one in regions:
        box = [min(edge * factor, side) for edge, factor in zip(one["bbox"], scale, strict=True)]
        moved.append({**one, "bbox": box})
    return image.resize((side, side), Image.Resampling.BICUBIC), moved
