"""A run of the caption engine whose shards are packed; functions of this module take the place of its passes."""

import io
import random

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from finecap.engine.recipe import recipe_from
from finecap.engine.running import one_shard as runner
from finecap.engine.running.one_shard import Run, run_shard
from finecap.engine.running.store import Store
from finecap.shards.plan import Shard

EVIL = "</title><script>alert(1)</script><img src=x onerror=alert(2)>|*"
WIDTH, HEIGHT = 64, 48
# Shards of one split, of two, and of nothing but rejects.
SHARDS = {"00000-a": ["train"] * 5, "00001-b": ["train", "test", "train", "test"], "00002-c": [], "00003-d": ["train"]}


def picture(name):
    pixels = np.random.default_rng(sum(name.encode())).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG" if name.endswith("1") else "PNG")
    return content.getvalue()


def ingest(rows, options, context):
    for row in rows:
        found = {"id": f"shop/{row['key']}.x", "image": row["bytes"], "width": WIDTH, "height": HEIGHT}
        reject = "broken: no picture" if row["bytes"] == b"" else None
        yield {**row, **found, "license": "CC-BY-4.0", "reject": reject}


def sort_out(rows, options, context):
    for row in rows:
        yield {"key": row["key"], "branch": "photo", "duplicate_of": None}


def recaption(rows, options, context):
    for row in rows:
        draw = random.Random(row["key"])
        text = " ".join(draw.choices(("a", "wide", "street", "of", "shops"), k=draw.randint(3, 40)))
        captions = [{"style": style, "text": text, "captioner": "m|1"} for style in ("short", "dense")]
        yield {"key": row["key"], "captions": captions, "global_caption": text, "captioner": "m|1"}


def ocr(rows, options, context):
    for row in rows:
        texts = [{"bbox": [1, 2, 30, 12], "level": "line", "text": EVIL, "score": 0.9, "line": 0}]
        yield {"key": row["key"], "texts": texts, "ocr_engine": "o 1"}


def boxes(rows, options, context):
    for row in rows:
        draw = random.Random(row["key"])
        labels = draw.choices(("shop", "door", EVIL), (8, 3, 1), k=draw.randint(0, 6))
        objects = [{"bbox": [4 * n, 3, 4 * n + 20, 40], "label": x, "phrase": x} for n, x in enumerate(labels)]
        yield {"key": row["key"], "objects": [{**item, "score": 0.5} for item in objects], "detector": "d 1"}


def local_captions(rows, options, context):
    for row in rows:
        said = (
            [{"object": 0, "caption": f"the first {EVIL}", "text": None, "captioner": "m"}] if row["objects"] else []
        )
        yield {"key": row["key"], "local_captions": said}


def verify(rows, options, context):
    for number, row in enumerate(rows):
        flags = [f"dense: number {number} not in the OCR text", f'object {number}: quote "a {number}" not in it']
        yield {
            "key": row["key"],
            "verdicts": [],
            "checks": ["numbers", f"read back {number} of 9 lines"],
            "flags": flags,
        }


FUNCTIONS = ("ingest", "recaption", "ocr", "boxes", "local_captions", "verify")


def make_run(folder, monkeypatch, shards=SHARDS, **pack):
    def read(shard):
        common = {"url": None, "source": "shops", "reject": None}
        for number, split in enumerate(SHARDS[shard.name]):
            name = f"{shard.name}-{number}"
            yield {"key": name, "bytes": picture(name), "split": split, **common}
        yield {"key": f"{shard.name}-broken", "bytes": b"", "split": "train", **common}

    monkeypatch.setattr(runner, "read_shard", read)
    monkeypatch.setattr(Run, "reduced", lambda self, name: folder / "none")
    own = {name: {"function": f"{__name__}:{name}"} for name in FUNCTIONS}
    own["ingest"] |= {"source": "shops", "license": "CC-BY-4.0"}
    own["boxes"] |= {"detector": "/models/detector"}
    rest = {name: {"function": f"{__name__}:sort_out"} for name in ("filter", "dedup")}
    recipe = recipe_from({**own, **rest, "phrases": {}, "pack": pack})
    run = Run(recipe, Store(folder), tuple(Shard(name, "folder", ()) for name in shards))
    for step in recipe.enabled():
        for shard in run.shards:
            run_shard(run, step.name, shard, {})
    return run


def records_of(folder):
    paths = sorted((folder / "data").glob("*.parquet"))
    return [record for path in paths for record in pq.read_table(path).to_pylist()]


def everything(folder):
    """The bytes of every file, by its path in the folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
