"""The samples of a run that a report shows, and their pictures, of which the run keeps copies.

Data may lie elsewhere, or be gone, when a report is written. So a run keeps the few pictures that a report may show;
which ones follows from the samples and the seed, so that no file has to say it.
"""

import io
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from finecap.files import committed
from finecap.pictures import BadPicture, open_rgb

SHOWN = 12
"""Most samples of an evaluation that are drawn, and most of its failures."""
RIGHT_FROM = 0.5
"""ANLS counts below 0.5 as wrong by its own threshold; most other scores of one sample are 0 or 1."""
MOST_SIDE = 1024
"""Larger pictures are kept scaled down (pixels)."""
MOST_PIXELS = 200_000_000
EXACT_SIDE = 340
"""Pictures up to this side are kept without loss, since they are shown enlarged (pixels)."""
Sample = Mapping[str, Any]


class KeptPicture(NamedTuple):
    """A picture as it is kept: its size in the data, in which boxes are given, and the bytes of a PNG or WebP file."""

    width: int
    height: int
    data: bytes


def is_right(sample: Sample) -> bool:
    """Does a sample count as right?"""
    return sample["score"] >= RIGHT_FROM


def seed_of(name: str, receipt: Mapping[str, Any]) -> str:
    """The seed of the choice for an evaluation of a run: another one for each, for they may share their samples."""
    return f"{name} {receipt.get('seed', 0)}"


def drawn(samples: Sequence[Sample], seed: str) -> list[Sample]:
    """At most `SHOWN`, drawn by seed and not by success; the first n are a draw as well."""
    return random.Random(seed).sample(samples, min(SHOWN, len(samples)))


def failures(samples: Sequence[Sample], seed: str) -> list[Sample]:
    """At most `SHOWN` that are wrong: the surest first where samples have a "confidence", else drawn by seed."""
    wrong = [sample for sample in samples if not is_right(sample)]
    random.Random(seed).shuffle(wrong)
    return sorted(wrong, key=lambda sample: -sample.get("confidence", 0.0))[:SHOWN]


def pictures_file(run: Path, name: str) -> Path:
    """Where the run keeps pictures of an evaluation."""
    return run / f"pictures_{name}.parquet"


def keep_pictures(
    path: Path, samples: Sequence[Sample], read: Callable[[set[str]], Iterable[tuple[str, bytes]]], seed: str
) -> None:
    """Write the pictures of the samples that a report may show.

    Args:
        path: See `pictures_file`.
        samples: All of an evaluation.
        read: Gives pictures by their ids.
        seed: See `seed_of`.
    """
    shown = [*drawn(samples, seed), *failures(samples, seed)]
    ids = {name for sample in shown for name in (sample["group"], *sample.get("confused", ()))}
    rows = [{"id": name, **row} for name, data in read(ids) if (row := _shrunk(data)) is not None]
    schema = pa.schema([("id", pa.string()), ("width", pa.int32()), ("height", pa.int32()), ("data", pa.binary())])
    with committed(path) as aside:
        pq.write_table(pa.Table.from_pylist(rows, schema), aside)


def kept_pictures(path: Path) -> dict[str, KeptPicture]:
    """What `keep_pictures` wrote, by ids; empty where it wrote nothing."""
    if not path.is_file():
        return {}
    return {row.pop("id"): KeptPicture(**row) for row in pq.read_table(path).to_pylist()}


def _shrunk(data: bytes) -> dict[str, Any] | None:
    try:
        image = open_rgb(data, MOST_PIXELS)
    except BadPicture:
        return None
    size = {"width": image.width, "height": image.height}
    return {**size, "data": encoded(image, MOST_SIDE)}


def encoded(image: Image.Image, most_side: int) -> bytes:
    """PNG of a small picture, WebP of a larger one, scaled down to a side (pixels).

    Args:
        image: RGB.
    """
    buffer = io.BytesIO()
    if max(image.size) <= EXACT_SIDE:
        image.save(buffer, "PNG", optimize=True)
    else:
        image = image.copy()
        image.thumbnail((most_side, most_side))
        image.save(buffer, "WEBP", quality=85)
    return buffer.getvalue()
