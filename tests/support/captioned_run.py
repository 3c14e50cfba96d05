"""A run whose first passes are these functions, for tests of the passes that ask captioners."""

import io
import random

from PIL import Image

from finecap.engine.recipe import recipe_from
from finecap.engine.running import one_shard as runner
from finecap.engine.running.one_shard import Run, run_shard
from finecap.engine.running.store import Store
from finecap.shards.plan import Shard

SHARD = Shard("00000-abc", "folder", ("x",))
SIZE = (64, 48)


def picture(key):
    """A small JPEG that no other key has."""
    image = Image.frombytes("RGB", SIZE, random.Random(key).randbytes(3 * SIZE[0] * SIZE[1]))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG")
    return buffer.getvalue()


def ingest(rows, options, context):
    for row in rows:
        yield {"key": row["key"], "image": row["bytes"], "width": SIZE[0], "height": SIZE[1]}


def photos(rows, options, context):
    for row in rows:
        yield {"key": row["key"], "branch": "photo"}


def nothing(rows, options, context):
    for row in rows:
        yield {"key": row["key"]}


BEFORE = {
    "ingest": {"source": "s", "license": "l", "function": f"{__name__}:ingest"},
    "filter": {"function": f"{__name__}:photos"},
    "dedup": {"function": f"{__name__}:nothing"},
}


def captioned_run(monkeypatch, out, server, keys, names=("a", "b"), **sections):
    """A run over pictures called `keys`, captioned by `server` under several names, with all before recaption done."""
    pictures = {key: picture(key) for key in keys}
    monkeypatch.setattr(
        runner, "read_shard", lambda _: ({"key": key, "bytes": pictures[key], "url": None} for key in keys)
    )
    captioners = [{"name": name, "model": name, "endpoints": [server.url], "timeout_s": 3.0} for name in names]
    run = Run(recipe_from({**BEFORE, "captioners": captioners, **sections}), Store(out), (SHARD,))
    for name in BEFORE:
        run_shard(run, name, SHARD, {})
    return run


def run_pass(run, name):
    """`run_shard` in a worker of its own, which closes its connections."""
    models = {}
    try:
        return run_shard(run, name, SHARD, models)
    finally:
        if "chat client" in models:
            models["event loop"].run_until_complete(models["chat client"].close())
        if "event loop" in models:
            models["event loop"].close()
