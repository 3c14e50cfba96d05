"""ShareGPT4V's captions of SA-1B (Chen et al. 2023): the first rows, which Long-CLIP left out of its training."""

from pathlib import Path

from finevit_eval.retrieval.protocols.reading import Captioned, needed, read_json, rejoined

# LoTLIP's excerpt of the first 10,000 rows is read in a moment; the whole file has 1.5 GB.
FILES = ("share4v_sam_10k.json", "share-captioner_coco_lcs_sam_1246k_1107.json")
LAYOUT = f"ShareGPT4V: {FILES[1]} (or LoTLIP's {FILES[0]}) and the pictures where its rows say"


def first_1k(data: Path) -> Captioned:
    """The first 1,000 rows, re-joined (LoTLIP, FLAIR)."""
    return _first(data, 1_000)


def first_10k(data: Path) -> Captioned:
    """The first 10,000 rows, re-joined (LoTLIP, FLAIR)."""
    return _first(data, 10_000)


def _first(data: Path, number: int) -> Captioned:
    path = next((data / file for file in FILES if (data / file).is_file()), data / FILES[1])
    rows = read_json(needed(path, LAYOUT), LAYOUT)[:number]
    return [(data / row["image"], [rejoined(row["conversations"][1]["value"])]) for row in rows]
