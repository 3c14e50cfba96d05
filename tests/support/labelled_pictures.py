"""Layouts of pictures by class as their authors publish them, with tiny pictures."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PillowImage


def plain_picture(colour: tuple[int, int, int], size: tuple[int, int] = (40, 30)) -> PillowImage.Image:
    return PillowImage.new("RGB", size, colour)


def write_image_folder(folder: Path, pictures: Mapping[str, Iterable[PillowImage.Image]], suffix: str = "png") -> Path:
    """A folder for each class; torchvision's ImageFolder, ImageNet-V2, ..."""
    for name, images in pictures.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number, image in enumerate(images):
            image.save(folder / name / f"{number:03d}.{suffix}")
    return folder


def write_objectnet(folder: Path, pictures: Mapping[str, Iterable[PillowImage.Image]], shared: Iterable[str]) -> Path:
    """`images/` and `mappings/`; folders are the labels in lower case with underscores, and a red frame is around.

    Args:
        shared: labels that ImageNet has as well.
    """
    frame = 2
    folders = {label.lower().replace(" ", "_"): label for label in pictures}
    framed = {name: [_framed(image, frame) for image in pictures[label]] for name, label in folders.items()}
    write_image_folder(folder / "images", framed)
    (folder / "mappings").mkdir()
    (folder / "mappings" / "folder_to_objectnet_label.json").write_text(json.dumps(folders))
    mapping = {label: f"{label.lower()}; another name" for label in shared}
    (folder / "mappings" / "objectnet_to_imagenet_1k.json").write_text(json.dumps(mapping))
    return folder


def _framed(image: PillowImage.Image, frame: int) -> PillowImage.Image:
    whole = PillowImage.new("RGB", (image.width + 2 * frame, image.height + 2 * frame), (255, 0, 0))
    whole.paste(image, (frame, frame))
    return whole


def write_dataset(
    folder: Path, split: str, images: list[PillowImage.Image], labels: Mapping[str, tuple[list[int], list[str]]]
) -> Path:
    """Parquet as on the Hub, with the columns `image` and those of `labels`: numbers and names."""
    columns = {name: numbers for name, (numbers, _) in labels.items()}
    features = {name: ClassLabel(names=names) for name, (_, names) in labels.items()}
    rows = Dataset.from_dict({"image": images, **columns}, features=Features({"image": Image(), **features}))
    (folder / "data").mkdir(parents=True, exist_ok=True)
    rows.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    return folder
