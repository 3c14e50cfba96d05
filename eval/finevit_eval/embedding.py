"""Embeddings of many pictures and texts: in full packs, each content once, and kept, so that a killed run goes on.

Pictures are decoded and resized in threads while the model works on those before. A pack is a function of the order
of the pictures alone, so that a run that goes on has the packs, and the bits, of one that was never stopped.
"""

import hashlib
import json
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image

from finecap.made_with import package_versions, weight_hashes
from finecap.pictures import MAX_PIXELS, open_rgb, upright_rgb
from finevit_eval.embedder import Embedder
from finevit_eval.kept import Kept
from finevit_eval.receipts import local_folder
from finevit_eval.result import GREY, Settings

PATCHES = 8192
"""Of a pack of pictures in their own resolution; a picture with more is a pack of its own."""
READERS = 4
"""Threads that decode and resize."""
AHEAD = 4 * READERS
"""Pictures that are ready or under way before the model takes them."""
PICTURE_FACTS = ("do_resize", "size", "max_num_patches", "resample", "crop_size", "image_mean", "image_std")
PACKAGES = ("torch", "torchvision", "transformers", "pillow")
Item = TypeVar("Item")
Made = TypeVar("Made")
Prepared = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class EmbeddedPictures:
    """What was found of pictures.

    Attributes:
        vectors: Embedding of each content by its SHA-256: `(width,)` float32, norm 1.
        digests: SHA-256 of the bytes of each picture, by its key; of those that cannot be read too.
        bad: What is wrong with contents that cannot be read, by their SHA-256.
    """

    vectors: Mapping[str, np.ndarray]
    digests: Mapping[Hashable, str]
    bad: Mapping[str, str]

    def problem(self, key: Hashable) -> str | None:
        """What is wrong with a picture."""
        return self.bad.get(self.digests[key])

    def stacked(self, keys: Iterable[Hashable]) -> torch.Tensor:
        """Embeddings of pictures that could be read: `(num_keys, width)` float32 on the CPU.

        Raises:
            ValueError: there are none.
        """
        if not self.vectors:
            raise ValueError(f"none of {len(self.digests)} pictures can be read: {next(iter(self.bad.values()), '')}")
        return torch.from_numpy(np.stack([self.vectors[self.digests[key]] for key in keys]))


def embed_pictures(
    embedder: Embedder, pictures: Iterable[tuple[Hashable, bytes]], settings: Settings, kept: Kept
) -> EmbeddedPictures:
    """Embeds a stream of pictures; one that comes twice is embedded once.

    Args:
        pictures: A key, each once, and the encoded picture.
        settings: Says whether pictures are grey (`blind`), and `batch_size` for models that resize every picture to
            one size; pictures in their own resolution fill packs of `PATCHES`.
        kept: What an interrupted run found, see `kept_conditions`; what is found is added to it.
    """
    vectors: dict[str, np.ndarray] = {}
    digests: dict[Hashable, str] = {}
    bad: dict[str, str] = {}

    def unknown() -> Iterator[tuple[str, bytes]]:
        asked: set[str] = set()
        for key, data in pictures:
            digest = digests[key] = hashlib.sha256(data).hexdigest()
            if digest not in asked:
                asked.add(digest)
                known = _from_bytes(kept.get([digest]))
                vectors.update(known)
                if not known:
                    yield digest, data

    def prepare(item: tuple[str, bytes]) -> tuple[str, Prepared | ValueError]:
        try:
            image = open_rgb(item[1], MAX_PIXELS)
            return item[0], embedder.prepare([Image.new("RGB", image.size, GREY) if settings.blind else image])
        except ValueError as error:  # no picture, or one that this model does not take: too thin, too large
            return item[0], error

    def ready() -> Iterator[tuple[str, Prepared]]:
        for digest, prepared in made_ahead(prepare, unknown()):
            if isinstance(prepared, ValueError):
                bad[digest] = str(prepared)
            else:
                yield digest, prepared

    for names, inputs in packs(ready(), settings.batch_size):
        vectors.update(_put(kept, names, embedder.encode(inputs)))
    return EmbeddedPictures(vectors, digests, bad)


def embed_texts(embedder: Embedder, texts: Sequence[str], batch_size: int, kept: Kept) -> torch.Tensor:
    """Embeddings of texts, `(num_texts, width)` float32 on the CPU; a text that comes twice is embedded once."""
    keys = {text: f"text {hashlib.sha256(text.encode()).hexdigest()}" for text in texts}
    vectors = _from_bytes(kept.get(keys.values()))
    new = [text for text, key in keys.items() if key not in vectors]
    for first in range(0, len(new), batch_size):
        batch = new[first : first + batch_size]
        vectors.update(_put(kept, [keys[text] for text in batch], embedder.texts(batch)))
    return torch.from_numpy(np.stack([vectors[keys[text]] for text in texts]))


def embed_images(embedder: Embedder, images: Iterable[Image.Image], batch_size: int) -> torch.Tensor:
    """Embeddings of opened pictures of any mode and size, `(num_images, width)` float32 on the CPU; in packs too, but
    neither left out where one cannot be read nor kept.
    """

    def prepare(image: Image.Image) -> tuple[str, Prepared]:
        return "", embedder.prepare([upright_rgb(image)])

    return torch.cat([embedder.encode(inputs).cpu() for _, inputs in packs(made_ahead(prepare, images), batch_size)])


def packs(
    pictures: Iterable[tuple[str, Prepared]], batch_size: int
) -> Iterator[tuple[list[str], dict[str, torch.Tensor]]]:
    """Pictures one behind the other, as many as fit.

    Args:
        pictures: Name and what `Embedder.prepare` gave for each picture.
        batch_size: Of a pack where the model resizes all pictures to one size. Pictures in their own resolution
            (`image_grid_thw`) fill `PATCHES`.

    Yields:
        The names of the pictures of a pack, and its inputs.
    """
    names: list[str] = []
    parts: list[Prepared] = []
    filled = 0
    for name, prepared in pictures:
        grid = prepared.get("image_grid_thw")
        size, most = (1, batch_size) if grid is None else (int(grid.prod()), PATCHES)
        if names and filled + size > most:
            yield names, _joined(parts)
            names, parts, filled = [], [], 0
        names.append(name)
        parts.append(prepared)
        filled += size
    if names:
        yield names, _joined(parts)


def made_ahead(make: Callable[[Item], Made], items: Iterable[Item]) -> Iterator[Made]:
    """What `make` gives for each item, in their order; up to `AHEAD` of them are made in threads meanwhile."""
    with ThreadPoolExecutor(READERS, thread_name_prefix="reader") as readers:
        under_way: deque[Future[Made]] = deque()
        for item in items:
            under_way.append(readers.submit(make, item))
            if len(under_way) == AHEAD:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()


def kept_conditions(model: str, embedder: Embedder, settings: Settings) -> dict[str, Any]:
    """What embeddings depend on besides the content, see `Kept`."""
    return {
        "weights": weight_hashes(local_folder(model)),
        "settings": vars(settings),
        "preparation": preparation(embedder),
        "versions": package_versions(PACKAGES),
    }


def preparation(embedder: Embedder) -> dict[str, Any]:
    """How pictures and texts are made ready, for the receipt: the way of resizing alone is worth two points of R@1
    (mteb's PR 5067).
    """
    processor = json.loads(embedder.image_processor.to_json_string())
    pictures = {name: processor[name] for name in PICTURE_FACTS if processor.get(name) is not None}
    return {"pictures": pictures, "texts": {"lower_case": True, "length": embedder.text_length}}


def _joined(parts: Sequence[Prepared]) -> dict[str, torch.Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _put(kept: Kept, keys: Sequence[str], embeddings: torch.Tensor) -> dict[str, np.ndarray]:
    found = dict(zip(keys, embeddings.cpu().numpy(), strict=True))
    kept.put({key: vector.tobytes() for key, vector in found.items()})
    return found


def _from_bytes(kept: Mapping[str, bytes]) -> dict[str, np.ndarray]:
    return {key: np.frombuffer(value, np.float32) for key, value in kept.items()}
