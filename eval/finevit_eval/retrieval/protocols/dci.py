"""Densely Captioned Images (Urbanek et al. 2024), in the two protocols that papers report."""

from pathlib import Path
from typing import Any

from finevit_eval.retrieval.protocols.reading import Captioned, needed, read_json, rejoined

LAYOUT = "DCI: densely_captioned_images/splits.json, annotations/*.json and photos/*.jpg (SA-1B's sa_000138.tar)"
FOLDER = "densely_captioned_images"


def short_and_extra(data: Path) -> Captioned:
    """All pictures of all splits; the short caption and the extra one, re-joined (LoTLIP and FLAIR; 7,805)."""
    splits = read_json(data / FOLDER / "splits.json", LAYOUT)
    names = [name for split in splits.values() for name in split]
    records = [read_json(data / FOLDER / "annotations" / name, LAYOUT) for name in names]
    return [_picture(data, one, rejoined(f"{one['short_caption']}\n{one['extra_caption']}")) for one in records]


def extra(data: Path) -> Captioned:
    """Every annotation file; the extra caption alone, lower-cased (FG-CLIP 2). Papers report one model some twenty
    points apart by this and the other protocol; the extra caption does not name the subject again.
    """
    paths = sorted(needed(data / FOLDER / "annotations", LAYOUT).glob("*.json"))
    records = [read_json(path, LAYOUT) for path in paths]
    return [_picture(data, one, one["extra_caption"].lower()) for one in records]


def _picture(data: Path, annotation: dict[str, Any], text: str) -> tuple[Path, list[str]]:
    return data / FOLDER / "photos" / annotation["image"], [text]
