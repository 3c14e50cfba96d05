"""Contact sheets of a built corpus, one for each source, with the boxes drawn, so that a person can look."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from finecap.corpus.drawing.raster import encode_png, load_font
from finecap.files import committed
from finecap.shards.layout import split_files

TILE = (360, 300)
TEXT_HEIGHT = 64
COLUMNS, ROWS = 4, 4
COLORS = {
    "line": (0, 140, 140),
    "word": (220, 0, 220),
    "bar": (220, 0, 220),
    "object": (220, 0, 220),
    "other": (240, 120, 0),
}


def write_galleries(out: Path, split: str = "train") -> list[Path]:
    """Write `<out>/gallery/<source>.png` for every source from the first rows of a split; returns the files."""
    rows: dict[str, list[dict]] = {}
    wanted = COLUMNS * ROWS
    for shard in split_files(out, split):
        sources = set(rows)
        for batch in pq.ParquetFile(shard).iter_batches(batch_size=50):
            for record in batch.to_pylist():
                if len(rows.setdefault(record["source"], [])) < wanted:
                    rows[record["source"]].append(record)
        if sources == set(rows) and all(len(found) == wanted for found in rows.values()):
            break
    paths = []
    for source, records in sorted(rows.items()):
        path = out / "gallery" / f"{source}.png"
        with committed(path) as aside:
            aside.write_bytes(encode_png(contact_sheet(records)))
        paths.append(path)
    return paths


def contact_sheet(records: list[dict]) -> Image.Image:
    """Tiles of `TILE` pixels: the picture with its boxes, scaled by a whole number or down to fit, and its first
    questions below.
    """
    rows = -(-len(records) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * TILE[0], rows * (TILE[1] + TEXT_HEIGHT)), (245, 245, 245))
    draw = ImageDraw.Draw(sheet)
    for number, record in enumerate(records):
        left, top = number % COLUMNS * TILE[0], number // COLUMNS * (TILE[1] + TEXT_HEIGHT)
        sheet.paste(tile(record), (left + 4, top + 4))
        for line, item in enumerate(record["qa"][:4]):
            text = f"{item['question']} {item['answers'][0]}"[:62]
            draw.text((left + 4, top + TILE[1] + 14 * line), text, font=load_font("sans", 11), fill=(0, 0, 0))
    return sheet


def tile(record: dict) -> Image.Image:
    """One picture with its boxes."""
    image = Image.open(io.BytesIO(record["image"]["bytes"])).convert("RGB")
    scale = min((TILE[0] - 8) / image.width, (TILE[1] - 8) / image.height)
    scale = int(scale) if scale >= 1 else scale
    method = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    image = image.resize((max(int(image.width * scale), 1), max(int(image.height * scale), 1)), method)
    draw = ImageDraw.Draw(image)
    for item in record["regions"]:
        x1, y1, x2, y2 = (round(value * scale) for value in item["bbox"])
        name = "object" if item["kind"] == "object" else item["label"]
        draw.rectangle((x1 - 1, y1 - 1, max(x2, x1), max(y2, y1)), outline=COLORS.get(name, COLORS["other"]))
    return image
