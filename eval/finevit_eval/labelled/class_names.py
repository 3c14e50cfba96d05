"""What classes are called in a prompt, and ImageNet's reassessed labels."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from finevit_eval.labelled.pictures_by_class import LabelledPicture, LabelledSplit

NAMES_FILES = ("classes.json", "classnames.txt")
REAL_FILE = "real.json"
WORDNET_ID = re.compile(r"n\d{8}")
IMAGENET_CLASSES = 1000
_VALIDATION_NUMBER = re.compile(r"ILSVRC2012_val_(\d{8})")


def class_names(data: Path, split: LabelledSplit) -> list[str]:
    """A name for each class of a split, as prompts have it.

    `classes.json` in the data's folder gives them: names by folder, names by number, a list of names, or Keras'
    `imagenet_class_index.json` (`{"0": ["n01440764", "tench"], ...}`). So does `classnames.txt`, one class a line:
    a name, or a WordNet id and a name (CoOp's list of OpenAI's names for ImageNet). Without either the data's own
    names are taken, with spaces for underscores.

    Raises:
        ValueError: a class has no name, or only a number or a WordNet id.
    """
    table = _names_table(data)
    if table is not None:
        return [_look_up(table, name, number, split.classes, data) for number, name in enumerate(split.classes)]
    if not split.named and (odd := [name for name in split.classes if name.isdigit() or WORDNET_ID.fullmatch(name)]):
        raise ValueError(
            f"The classes of {data} are called {odd[0]!r} and the like, which no model reads; give their names in "
            f"{data / NAMES_FILES[0]} ({{folder: name}}) or {data / NAMES_FILES[1]} (a line for each class)."
        )
    return [name.replace("_", " ") for name in split.classes]


def _names_table(data: Path) -> dict[str, str] | None:
    """Names by folder or number, in the order of the classes; None where there is no such file."""
    lists, lines = (data / name for name in NAMES_FILES)
    if lists.is_file():
        content = json.loads(lists.read_text("utf-8"))
        pairs = content.items() if isinstance(content, dict) else enumerate(content)
        entries = [value if isinstance(value, list) else (key, value) for key, value in pairs]
    elif lines.is_file():
        texts = [line.strip() for line in lines.read_text("utf-8").splitlines() if line.strip()]
        entries = [
            text.split(maxsplit=1) if WORDNET_ID.match(text) else (number, text) for number, text in enumerate(texts)
        ]
    else:
        return None
    return {str(key): str(name).replace("_", " ") for key, name in entries}


def _look_up(table: dict[str, str], name: str, number: int, classes: Sequence[str], data: Path) -> str:
    """By what the data call the class; by its place where one of both knows numbers alone."""
    if name in table:
        return table[name]
    place = int(name) if name.isdigit() else number
    # Of a part of the classes the place among them says nothing.
    if place < len(table) and (name.isdigit() or len(table) == len(classes)):
        return table[sorted(table)[place] if WORDNET_ID.fullmatch(next(iter(table))) else list(table)[place]]
    raise ValueError(f"The class {name!r} of {data} has no name in {' or '.join(NAMES_FILES)} there.")


def real_labels(data: Path, pictures: Sequence[LabelledPicture], classes: Sequence[str]) -> list[set[int]] | None:
    """ImageNet's reassessed labels (Beyer et al. 2020): for each picture all classes that are right, or none.

    Args:
        data: with the published `real.json`, or without: None then.

    Raises:
        ValueError: these are no pictures of ImageNet-1k's validation set, or not all of its classes.
    """
    if not (data / REAL_FILE).is_file():
        return None
    labels = json.loads((data / REAL_FILE).read_text("utf-8"))
    numbers = [_VALIDATION_NUMBER.search(picture.id) for picture in pictures]
    if len(classes) != IMAGENET_CLASSES or not all(numbers):
        raise ValueError(
            f"{data / REAL_FILE} is about ImageNet's validation set, pictures ILSVRC2012_val_*.JPEG of "
            f"{IMAGENET_CLASSES} classes; {data} has {len(classes)} classes and other pictures. Take it away."
        )
    return [set(labels[int(number[1]) - 1]) for number in numbers if number]
