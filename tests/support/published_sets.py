"""Writers of the folders in which test sets for retrieval are published, with pictures of one colour each.

The picture of number n has `colour(n)`; its texts end in "shade n" or, where a text is cut at its dots, in another
way that names n last. Each writer takes a folder and how many pictures there are, and returns the folder.
"""

import json
from pathlib import Path

from PIL import Image


def colour(number):
    return (8 * number, 255 - 8 * number, 90)


def write_picture(path, number):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (60 + 14 * (number % 5), 56 + 28 * (number % 3)), colour(number)).save(path, "PNG")


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), "utf-8")


def write_json_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def write_dci(folder: Path, pictures: int) -> Path:
    root = folder / "densely_captioned_images"
    names = [f"{number:06d}-data.json" for number in range(pictures)]
    for number, name in enumerate(names):
        write_picture(root / "photos" / f"sa_{number}.jpg", number)
        annotation = {
            "image": f"sa_{number}.jpg",
            "short_caption": f"A Flat plane. No {number}",
            "extra_caption": f"It is of\none colour. Shade {number}.",
            "mask_data": {},
        }
        write_json(root / "annotations" / name, annotation)
    write_json(root / "splits.json", {"train": names[:-2], "valid": names[-2:-1], "test": names[-1:]})
    return folder


def write_docci(folder: Path, pictures: int) -> Path:
    rows = []
    for number in range(pictures):
        write_picture(folder / "images" / f"test_{number:05d}.jpg", number)
        text = f"A plane of shade {number}. It shows shade {number}. "
        rows.append({"example_id": f"test_{number:05d}", "split": "test", "description": text})
        rows[-1]["image_file"] = f"test_{number:05d}.jpg"
    other = {"example_id": "train_1", "split": "train", "description": "x", "image_file": "train_1.jpg"}
    write_json_lines(folder / "docci_descriptions.jsonlines", [other, *rows])
    return folder


def write_urban1k(folder: Path, pictures: int) -> Path:
    (folder / "caption").mkdir(parents=True)
    for number in range(pictures):
        write_picture(folder / "image" / f"{number}.jpg", number)
        (folder / "caption" / f"{number}.txt").write_text(f"A street of shade {number}\nA second line of shade 99\n")
    return folder


def write_iiw(folder: Path, pictures: int) -> Path:
    """A third of the pictures in each part."""
    parts = [("DOCCI_Test", "docci", "image"), ("IIW-400", "docci_aar", "image/key"), ("DCI_Test", "dci", "image")]
    for place, (part, sub, key) in enumerate(parts):
        rows = []
        for number in range(place, pictures, 3):
            name = f"sa_{number}.jpg" if part == "DCI_Test" else f"aar_{number}"
            write_picture(folder / sub / f"{name.removesuffix('.jpg')}.jpg", number)
            rows.append({"IIW": f"A plane.\nIt has shade {number}.", key: name})
        write_json_lines(folder / part / "data.jsonl", rows)
    return folder


def write_share4v(folder: Path, pictures: int) -> Path:
    rows = []
    for number in range(pictures):
        write_picture(folder / "sam" / "images" / f"sa_{number}.jpg", number)
        said = [
            {"from": "human", "value": "<image>\nDescribe it."},
            {"from": "gpt", "value": f"All is shade {number}."},
        ]
        rows.append({"id": f"sa_{number}", "image": f"sam/images/sa_{number}.jpg", "conversations": said})
    write_json(folder / "share-captioner_coco_lcs_sam_1246k_1107.json", rows)
    return folder


def _karpathy_image(number, split, file):
    texts = [f"A view of shade {number}", f"Shade  {number}. ", f"All in shade {number}"]
    return {**file, "split": split, "imgid": number, "sentences": [{"raw": text, "tokens": []} for text in texts]}


def write_karpathy_coco(folder: Path, pictures: int) -> Path:
    images = [_karpathy_image(99, "restval", {"filepath": "val2014", "filename": "COCO_val2014_99.jpg"})]
    for number in range(pictures):
        file = {"filepath": "val2014", "filename": f"COCO_val2014_{number:012d}.jpg"}
        write_picture(folder / "val2014" / file["filename"], number)
        images.append(_karpathy_image(number, "test", file))
    write_json(folder / "dataset_coco.json", {"dataset": "coco", "images": images})
    return folder


def write_karpathy_flickr30k(folder: Path, pictures: int) -> Path:
    images = [_karpathy_image(99, "train", {"filename": "99.jpg"})]
    for number in range(pictures):
        write_picture(folder / "flickr30k-images" / f"{number}.jpg", number)
        images.append(_karpathy_image(number, "test", {"filename": f"{number}.jpg"}))
    write_json(folder / "dataset_flickr30k.json", {"dataset": "flickr30k", "images": images})
    return folder


def write_coco2017(folder: Path, pictures: int) -> Path:
    """Six captions a picture, those of all pictures mixed; ids fall where numbers rise."""
    images, annotations = [], []
    for number in range(pictures):
        write_picture(folder / "val2017" / f"{number:012d}.jpg", number)
        images.append({"id": 1000 - number, "file_name": f"{number:012d}.jpg"})
    for place in range(6):
        for number in range(pictures):
            text = f"Text {place} of shade {number}\n"
            annotations.append({"image_id": 1000 - number, "id": len(annotations), "caption": text})
    write_json(folder / "annotations" / "captions_val2017.json", {"images": images, "annotations": annotations})
    return folder


# Suite -> writer.
WRITERS = {
    "dci": write_dci,
    "docci": write_docci,
    "urban1k": write_urban1k,
    "iiw": write_iiw,
    "share4v": write_share4v,
    "coco": write_karpathy_coco,
    "coco2017": write_coco2017,
    "flickr30k": write_karpathy_flickr30k,
}
