"""COCO val2017 with the first five captions of a picture, as Long-CLIP, FLAIR and FG-CLIP 2 measure."""

from pathlib import Path

from finevit_eval.retrieval.protocols.reading import Captioned, read_json

LAYOUT = "COCO val2017: annotations/captions_val2017.json and val2017/*.jpg"
MOST = 5


def first_five(data: Path) -> Captioned:
    """5,000 pictures, 25,000 texts, in the order of the pictures' ids, texts in the file's."""
    whole = read_json(data / "annotations" / "captions_val2017.json", LAYOUT)
    files = {image["id"]: image["file_name"] for image in whole["images"]}
    texts: dict[int, list[str]] = {image: [] for image in sorted(files)}
    for annotation in whole["annotations"]:
        texts[annotation["image_id"]].append(annotation["caption"].strip())
    return [(data / "val2017" / files[image], found[:MOST]) for image, found in texts.items()]
