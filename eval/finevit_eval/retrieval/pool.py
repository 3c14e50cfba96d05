"""The fixed pool of a retrieval: pictures of a split and one caption of each, no caption twice."""

import hashlib
import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq

from finecap.shards.layout import needed_split_files

Place = tuple[Path, int]
"""A row: its file and its number there."""


class Pair(NamedTuple):
    """A caption and where its picture is."""

    id: str
    caption: str
    place: Place


def choose_pairs(data: Path, split: str, style: str, limit: int | None, seed: int) -> list[Pair]:
    """The pool of a split: of pictures whose captions are the same but for case, the one with the first id.

    Args:
        data: FineCap records in the Hub's layout.
        style: of the captions: "short", "dense", ...; the first of a record's `captions` that has it.
        limit: most pairs, drawn with `seed`; the same ones whatever the order of the rows.

    Returns:
        In the order of files and rows.

    Raises:
        ValueError: there is no such split, or it has fewer than two pictures with different captions of that style.
    """
    first: dict[str, Pair] = {}
    for pair in sorted(_pairs(needed_split_files(data, split), style)):
        first.setdefault(pair.caption.lower(), pair)
    pairs = list(first.values())
    if limit is not None and limit < len(pairs):
        pairs = random.Random(seed).sample(pairs, limit)
    if len(pairs) < 2:
        raise ValueError(
            f"{data} has {len(pairs)} pictures with different captions of style {style!r} in split {split!r}; "
            "expected two at least. A corpus that was built before captions were written has none: build it anew."
        )
    return sorted(pairs, key=lambda pair: pair.place)


def _pairs(shards: Sequence[Path], style: str) -> Iterator[Pair]:
    for shard in shards:
        table = pq.read_table(shard, columns=["id", "captions"])
        for row, record in enumerate(table.to_pylist()):
            captions = (item for item in record["captions"] or [] if item and item["style"] == style)
            texts = ((item["text"] or "").strip() for item in captions)
            if text := next(filter(None, texts), None):
                yield Pair(record["id"], text, (shard, row))


def read_pictures(pairs: Iterable[Pair]) -> Iterator[tuple[Pair, bytes]]:
    """Each pair with the bytes of its picture, one shard in memory at a time; pairs in the order of files and rows."""
    for shard, group in groupby(pairs, key=lambda pair: pair.place[0]):
        images = pq.read_table(shard, columns=["image"])["image"]
        for pair in group:
            yield pair, images[pair.place[1]].as_py()["bytes"]


def pictures_of(pairs: Iterable[Pair], ids: set[str]) -> Iterator[tuple[str, bytes]]:
    """The pictures of the pairs with these ids, each with its id."""
    return ((pair.id, data) for pair, data in read_pictures(pair for pair in pairs if pair.id in ids))


def fingerprint(pairs: Iterable[tuple[str, str, str]]) -> str:
    """SHA-256 of pictures and texts, whatever their order.

    Args:
        pairs: For each text the id of its picture, the text, and the SHA-256 of the picture's bytes.
    """
    whole = hashlib.sha256()
    for name, text, digest in sorted(pairs):
        whole.update(f"{name}\0{text}\0{digest}\n".encode())
    return whole.hexdigest()
