"""Karpathy's test splits (Karpathy and Fei-Fei 2015) of COCO and Flickr30k, with all captions of a picture."""

from pathlib import Path

from finevit_eval.retrieval.protocols.reading import Captioned, read_json

COCO = "COCO, Karpathy's split: dataset_coco.json and val2014/*.jpg"
FLICKR30K = "Flickr30k, Karpathy's split: dataset_flickr30k.json and flickr30k-images/*.jpg"


def coco(data: Path) -> Captioned:
    """5,000 pictures, 25,010 texts (CLIP_benchmark, SigLIP)."""
    return [
        (data / one["filepath"] / one["filename"], _texts(one))
        for one in _test(read_json(data / "dataset_coco.json", COCO))
    ]


def flickr30k(data: Path) -> Captioned:
    """1,000 pictures, 5,000 texts (CLIP_benchmark, FLAIR, mteb)."""
    return [
        (data / "flickr30k-images" / one["filename"], _texts(one))
        for one in _test(read_json(data / "dataset_flickr30k.json", FLICKR30K))
    ]


def _test(split: dict) -> list[dict]:
    return [image for image in split["images"] if image["split"] == "test"]


def _texts(image: dict) -> list[str]:
    return [sentence["raw"].strip() for sentence in image["sentences"]]
