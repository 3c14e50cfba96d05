"""Pictures by class, as they lie on disks: image folders, ObjectNet, and datasets with image and label."""

import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from datasets import ClassLabel, Dataset, Image, load_dataset

from finecap.pictures import MAX_PIXELS, BadPicture, encoded, open_rgb

SUFFIXES = {".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"}
"""Of torchvision's ImageFolder."""
OBJECTNET_FOLDERS = Path("mappings", "folder_to_objectnet_label.json")
OBJECTNET_CLASSES = Path("mappings", "objectnet_to_imagenet_1k.json")
OBJECTNET_FRAME = 2
"""Width in pixels of the red frame that marks ObjectNet's pictures as test data."""
EXPECTED = (
    "expected an image folder (<split>/<class>/*.jpg, or <class>/*.jpg of a test set alone), ObjectNet with its "
    "mappings, or a dataset with one image and a label"
)


class LabelledPicture(NamedTuple):
    """A picture: its id, the number of its class, and its encoded bytes when they are read."""

    id: str
    label: int
    read: Callable[[], bytes]


@dataclass(frozen=True)
class LabelledSplit:
    """Pictures of a split.

    Attributes:
        pictures: In a fixed order.
        classes: What the data call the classes: folders, or the names of a ClassLabel; a picture's label is a place
            in it.
        named: Are those names for people by the data's own word, as a ClassLabel's and ObjectNet's are?
    """

    pictures: list[LabelledPicture]
    classes: list[str]
    named: bool = False

    def drawn(self, limit: int | None, seed: int) -> "LabelledSplit":
        """At most so many pictures, drawn by seed, in the order they had; all classes stay."""
        if limit is None or limit >= len(self.pictures):
            return self
        chosen = sorted(random.Random(seed).sample(range(len(self.pictures)), limit))
        return replace(self, pictures=[self.pictures[place] for place in chosen])


def read_labelled(data: Path, split: str) -> LabelledSplit:
    """The pictures of a split with their labels.

    Read are torchvision's ImageFolder (`<split>/<class>/`; ImageNet-1k with a folder for each WordNet id), the folder
    of a test set alone (`<class>/`; ImageNet-V2 with folders 0 to 999, ImageNet-A, -R and -Sketch), ObjectNet
    (`images/` and `mappings/`; the 113 classes that it shares with ImageNet), and what `datasets` loads from a folder
    if it has one column of pictures and one of labels. Classes are those that have a folder, in the order of the
    folders' names, or numbers.

    Raises:
        ValueError: the folder is none of these, or has no such split.
    """
    if (data / OBJECTNET_FOLDERS).is_file():
        return _objectnet(data)
    for folder in (data / split, data):
        if folder.is_dir() and (found := _image_folder(folder, data)).pictures:
            return found
    return _dataset(data, split)


def in_order(classes: list[str]) -> list[str]:
    """Numbers as numbers: torchvision puts 10 before 2, and ImageNet-V2 is then scored against other classes."""
    return sorted(classes, key=int) if all(name.isdigit() for name in classes) else sorted(classes)


def _image_folder(folder: Path, data: Path) -> LabelledSplit:
    """Of a folder of folders, each with pictures of one class; a folder of splits has no pictures one level down. Ids
    are paths in `data`.
    """
    files = {
        entry.name: sorted(path for path in entry.rglob("*") if path.suffix.lower() in SUFFIXES)
        for entry in folder.iterdir()
        if entry.is_dir() and any(path.suffix.lower() in SUFFIXES for path in entry.iterdir())
    }
    classes = in_order(list(files))
    pictures = [
        LabelledPicture(path.relative_to(data).as_posix(), label, path.read_bytes)
        for label, name in enumerate(classes)
        for path in files[name]
    ]
    return LabelledSplit(pictures, classes)


def _objectnet(data: Path) -> LabelledSplit:
    """Barbu et al. 2019; its folders have names of their own, and its pictures a frame."""
    names = json.loads((data / OBJECTNET_FOLDERS).read_text("utf-8"))
    shared = json.loads((data / OBJECTNET_CLASSES).read_text("utf-8"))
    split = _image_folder(data / "images", data)
    kept = [name for name in split.classes if names.get(name) in shared]
    number = {split.classes.index(name): label for label, name in enumerate(kept)}
    pictures = [
        LabelledPicture(one.id, number[one.label], partial(_without_frame, data / one.id))
        for one in split.pictures
        if one.label in number
    ]
    if not pictures:
        raise ValueError(f"{data / 'images'} has none of the classes that {OBJECTNET_CLASSES} names.")
    return LabelledSplit(pictures, [names[name] for name in kept], named=True)


def _without_frame(path: Path) -> bytes:
    """What cannot be read is given as it is, for the reader to say so."""
    data = path.read_bytes()
    try:
        image = open_rgb(data, MAX_PIXELS)
    except BadPicture:
        return data
    frame = OBJECTNET_FRAME
    return encoded(image.crop((frame, frame, image.width - frame, image.height - frame)), "PPM")


def _dataset(data: Path, split: str) -> LabelledSplit:
    try:
        rows = load_dataset(str(data), split=split)
    except (ValueError, OSError) as error:
        raise ValueError(f"{data} has no split {split!r} of pictures by class: {EXPECTED}. ({error})") from error
    pictures = [name for name, feature in rows.features.items() if isinstance(feature, Image)]
    label = _label_column(rows)
    if len(pictures) != 1 or label is None:
        raise ValueError(f"{data} has the columns {', '.join(rows.column_names)}; {EXPECTED}.")
    rows = rows.select_columns([pictures[0], label]).cast_column(pictures[0], Image(decode=False))
    labels = [int(value) for value in rows[label]]
    feature = rows.features[label]
    named = isinstance(feature, ClassLabel)
    classes = list(feature.names) if named else [str(number) for number in range(max(labels) + 1)]
    read = [partial(_bytes, rows, row, pictures[0]) for row in range(len(rows))]
    found = [LabelledPicture(f"{split}/{row}", labels[row], read[row]) for row in range(len(rows)) if labels[row] >= 0]
    if not found:
        raise ValueError(f"{data}: the pictures of split {split!r} have no labels (-1); take another split.")
    return LabelledSplit(found, classes, named)


def _label_column(rows: Dataset) -> str | None:
    """The finest of several: CIFAR-100 has coarse labels too."""
    named = {name: len(feature.names) for name, feature in rows.features.items() if isinstance(feature, ClassLabel)}
    if named:
        return max(named, key=lambda name: named[name])
    whole = re.compile(r"u?int\d+")
    feature: Any = rows.features.get("label")
    return "label" if feature is not None and whole.fullmatch(str(getattr(feature, "dtype", ""))) else None


def _bytes(rows: Dataset, row: int, column: str) -> bytes:
    picture = rows[row][column]
    return picture["bytes"] or Path(picture["path"]).read_bytes()
