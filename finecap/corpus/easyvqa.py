"""Importer of easy-vqa (PyPI, MIT): 4,000 training and 1,000 test pictures of one shape each, with 38,575 and 9,673
questions.

The published test pictures are the test split. The published training pictures 0 to 3,799 are the train split and
3,800 to 3,999 the validation split. A picture is one source item; all its questions travel in one record.
"""

from __future__ import annotations

import functools
from collections import defaultdict

from PIL import Image

from finecap.corpus.drawing.raster import encode_png
from finecap.records import QA, Record, new_record

CAPACITY = {"train": 3800, "validation": 200, "test": 1000}
UPSCALED_SIDE = {"nano": 84, "small": 112, "base": 224, "full": 448}


@functools.cache
def _questions(published_split: str) -> dict[int, list[QA]]:
    import easy_vqa

    texts, answers, image_ids = (
        easy_vqa.get_test_questions() if published_split == "test" else easy_vqa.get_train_questions()
    )
    by_image: dict[int, list[QA]] = defaultdict(list)
    for text, answer, image_id in zip(texts, answers, image_ids, strict=True):
        by_image[image_id].append({"question": text, "answers": [answer], "kind": "easyvqa"})
    return by_image


@functools.cache
def _paths(published_split: str) -> dict[int, str]:
    import easy_vqa

    return easy_vqa.get_test_image_paths() if published_split == "test" else easy_vqa.get_train_image_paths()


def generate(index: int, seed: int, split: str, difficulty: str) -> Record:
    """Record number `index` of a split. `seed` changes nothing: the set is fixed.

    Raises:
        ValueError: if the split holds no picture of that number.
    """
    if not 0 <= index < CAPACITY[split]:
        raise ValueError(f"easy-vqa has {CAPACITY[split]} {split} pictures, so there is no number {index}")
    published = "test" if split == "test" else "train"
    number = index + (CAPACITY["train"] if split == "validation" else 0)
    side = UPSCALED_SIDE[difficulty]
    with Image.open(_paths(published)[number]) as picture:
        image = picture.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
    name, questions = f"easy-vqa/{published}-{number}", _questions(published)[number]
    return new_record(name, encode_png(image), image.size, "easy-vqa", "MIT", split, [], questions)
