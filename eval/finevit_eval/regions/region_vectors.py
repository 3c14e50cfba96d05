"""Embeddings of boxes: by the model's own region features, or by the picture's part in the box for models that have
none (CLIP, SigLIP).
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from finecap.boxes import Box, clip_box
from finecap.pictures import MAX_PIXELS, BadPicture, open_rgb
from finevit_eval.embedder import Embedder
from finevit_eval.embedding import made_ahead, packs
from finevit_eval.kept import Kept
from finevit_eval.result import GREY, Settings

Prepared = Mapping[str, torch.Tensor]


class Region(NamedTuple):
    """A box in a picture: an id, each once, the file, and x1, y1, x2, y2 in pixels."""

    id: str
    picture: Path
    box: Box


@dataclass(frozen=True)
class RegionVectors:
    """What was found of regions.

    Attributes:
        vectors: Embedding of each region by its id: `(width,)` float32, norm 1.
        digests: SHA-256 of each picture's bytes.
        skipped: "id: reason" of regions that have none.
    """

    vectors: Mapping[str, np.ndarray]
    digests: Mapping[Path, str]
    skipped: list[str]

    def read_pictures(self, ids: set[str]) -> Iterator[tuple[str, bytes]]:
        """Pictures by their digests, for the report."""
        paths = {digest: path for path, digest in self.digests.items() if digest in ids}
        return ((digest, path.read_bytes()) for digest, path in paths.items())


def way_of_regions(embedder: Embedder) -> str:
    """How a model's regions are embedded, for the receipt."""
    return "region features" if embedder.reads_regions else "crops"


def embed_regions(embedder: Embedder, regions: Sequence[Region], settings: Settings, kept: Kept) -> RegionVectors:
    """Embeds boxes; a picture is seen once for all of its boxes where the model has region features.

    Args:
        regions: Boxes are cut to their pictures.
        settings: Says whether pictures are grey (`blind`), and `batch_size` for models that resize every picture to
            one size.
        kept: What an interrupted run found; what is found is added to it.

    Raises:
        ValueError: no region of any picture can be embedded.
    """
    by_picture: dict[Path, list[Region]] = {}
    for region in regions:
        by_picture.setdefault(region.picture, []).append(region)
    found = _Found({}, {}, [])
    read = _known_and_new(by_picture, settings, kept, found)
    embed = _by_features if embedder.reads_regions else _by_crops
    for new in embed(embedder, read, settings.batch_size, found.skipped):
        kept.put({key: vector.tobytes() for key, vector in new.items()})
        found.vectors.update({_id(key): vector for key, vector in new.items()})
    if not found.vectors:
        raise ValueError(f"none of {len(regions)} regions can be embedded; the first is {''.join(found.skipped[:1])}")
    return RegionVectors(found.vectors, found.digests, found.skipped)


class _Found(NamedTuple):
    vectors: dict[str, np.ndarray]
    digests: dict[Path, str]
    skipped: list[str]


class _Boxed(NamedTuple):
    """A picture and those of its boxes whose embeddings are unknown, by their keys."""

    image: Image.Image
    boxes: dict[str, Box]


def _known_and_new(
    by_picture: Mapping[Path, Sequence[Region]], settings: Settings, kept: Kept, found: _Found
) -> Iterator[_Boxed]:
    """Pictures with unknown boxes; known ones, and what cannot be read, are noted on the way."""
    for path, regions in by_picture.items():
        try:
            data = path.read_bytes()
            image = open_rgb(data, MAX_PIXELS)
        except (BadPicture, OSError) as error:
            found.skipped.extend(f"{region.id}: {error}" for region in regions)
            continue
        digest = found.digests[path] = hashlib.sha256(data).hexdigest()
        boxes = {region.id: clip_box(region.box, *image.size) for region in regions}
        empty = [name for name, (x1, y1, x2, y2) in boxes.items() if not (x1 < x2 and y1 < y2)]
        found.skipped.extend(f"{name}: its box is empty or outside the picture" for name in empty)
        keys = {_key(digest, box, name): box for name, box in boxes.items() if name not in empty}
        known = kept.get(keys)
        found.vectors.update({key.partition(" ")[2]: np.frombuffer(value, np.float32) for key, value in known.items()})
        new = {key: box for key, box in keys.items() if key not in known}
        if new:
            yield _Boxed(Image.new("RGB", image.size, GREY) if settings.blind else image, new)


def _key(digest: str, box: Box, name: str) -> str:
    return f"region-{digest}-{'-'.join(map(str, box))} {name}"


def _id(key: str) -> str:
    return key.partition(" ")[2]


def _by_features(
    embedder: Embedder, read: Iterator[_Boxed], batch_size: int, skipped: list[str]
) -> Iterator[dict[str, np.ndarray]]:
    pictures: dict[str, _Boxed] = {}

    def named() -> Iterator[tuple[list[str], Image.Image]]:
        for boxed in read:
            pictures[next(iter(boxed.boxes))] = boxed
            yield list(boxed.boxes), boxed.image

    for names, inputs in packs(_prepared(embedder, named(), skipped), batch_size):
        pack = [pictures.pop(name) for name in names]
        keys = [key for boxed in pack for key in boxed.boxes]
        boxes = torch.tensor([box for boxed in pack for box in boxed.boxes.values()])
        index = torch.tensor([place for place, boxed in enumerate(pack) for _ in boxed.boxes])
        sizes = torch.tensor([(boxed.image.height, boxed.image.width) for boxed in pack])
        vectors = embedder.regions(inputs, boxes, index, sizes).cpu().numpy()
        yield dict(zip(keys, vectors, strict=True))


def _by_crops(
    embedder: Embedder, read: Iterator[_Boxed], batch_size: int, skipped: list[str]
) -> Iterator[dict[str, np.ndarray]]:
    crops = (([key], crop(boxed.image, box)) for boxed in read for key, box in boxed.boxes.items())
    for keys, inputs in packs(_prepared(embedder, crops, skipped), batch_size):
        yield dict(zip(keys, embedder.encode(inputs).cpu().numpy(), strict=True))


def _prepared(
    embedder: Embedder, pictures: Iterator[tuple[list[str], Image.Image]], skipped: list[str]
) -> Iterator[tuple[str, Prepared]]:
    """The first key of each picture's boxes, and the picture as the model takes it; else the boxes are skipped."""

    def prepare(item: tuple[list[str], Image.Image]) -> tuple[list[str], Prepared | ValueError]:
        try:
            return item[0], embedder.prepare([item[1]])
        except ValueError as error:  # too thin or too large for this model
            return item[0], error

    for keys, prepared in made_ahead(prepare, pictures):
        if isinstance(prepared, ValueError):
            skipped.extend(f"{_id(key)}: {prepared}" for key in keys)
        else:
            yield keys[0], prepared


def crop(image: Image.Image, box: Box) -> Image.Image:
    """The part of a picture in a box, to whole pixels outwards."""
    x1, y1, x2, y2 = box
    return image.crop((math.floor(x1), math.floor(y1), math.ceil(x2), math.ceil(y2)))
