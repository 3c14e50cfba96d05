"""The public data sets of questions in their own layouts, small: folders named as on the Hub, schemas as published.

Every question of a data set has the same words, so that the picture alone tells its answer: its red is
`REDS[pick]`, and the answer `WORDS[pick]` or the box `BOXES[pick]`. `PICKS` makes the first answer the most frequent.
"""

import io
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Image, Sequence, Value
from PIL import Image as PILImage

from finecap.boxes import format_box
from finecap.features import FINECAP_FEATURES
from finecap.records import QA, new_record
from finecap.shards.layout import split_file

WIDTH, HEIGHT = 120, 80
PICKS = (0, 0, 0, 1, 1, 2)
REDS = (40, 100, 160)
WORDS = ("amber", "cobalt", "jet")
BOXES = ([6, 8, 40, 40], [60, 8, 110, 30], [20, 50, 90, 76])
"""Pixels x1, y1, x2, y2; none touches another."""
TEXT, NUMBER, SHARE = Value("string"), Value("int64"), Value("float64")
Rows = Iterable[Mapping[str, Any]]


def coloured(pick: int, row: int) -> dict[str, Any]:
    """A picture that tells an answer, different for each row."""
    buffer = io.BytesIO()
    PILImage.new("RGB", (WIDTH, HEIGHT), (REDS[pick], 10 * row, 90)).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def tell(image: PILImage.Image, prompt: str) -> str:
    """What a model answers that sees the red of a picture and knows `WORDS` and `BOXES`; of another red it says the
    most frequent answer.
    """
    red = image.getpixel((0, 0))[0]
    pick = REDS.index(red) if red in REDS else 0
    return format_box(BOXES[pick], WIDTH, HEIGHT) if prompt.startswith("Bounding box") else WORDS[pick]


def write_hub_folders(folder: Path) -> Path:
    """Write all of them; returns the folder."""
    splits = {
        "lmms-lab-encoder/DocVQA": {
            "DocVQA": {"validation": (docvqa_rows(), DOCVQA)},
            "InfographicVQA": {"validation": (_infovqa(), INFOVQA)},
        },
        "lmms-lab-encoder/ChartQA": {"default": {"test": (_chartqa(), CHARTQA)}},
        "lmms-lab-encoder/textvqa": {"default": {"validation": (_textvqa(), TEXTVQA)}},
        "echo840/OCRBench": {"default": {"test": (_ocrbench(), OCRBENCH)}},
        "rootsautomation/ScreenSpot": {"default": {"test": (_screenspot(), SCREENSPOT)}},
    }
    for name, parts in (
        ("RefCOCO", ("val", "test", "testA", "testB")),
        ("RefCOCOplus", ("val", "testA", "testB")),
        ("RefCOCOg", ("val", "test")),
    ):
        splits[f"lmms-lab-encoder/{name}"] = {"default": {part: (refcoco_rows(), REFCOCO) for part in parts}}
    for name, configs in splits.items():
        write_dataset(folder / name, configs)
    return folder


def write_dataset(folder: Path, configs: Mapping[str, Mapping[str, tuple[Rows, Features]]]) -> None:
    """Write a data set as the Hub has it: config -> split -> rows and their features; README.md names the configs."""
    header = ["---", "configs:"]
    for config, splits in configs.items():
        place = "data" if config == "default" else config
        (folder / place).mkdir(parents=True, exist_ok=True)
        header += [f"- config_name: {config}", "  data_files:"]
        for split, (rows, features) in splits.items():
            path = folder / place / f"{split}-00000-of-00001.parquet"
            Dataset.from_list([dict(row) for row in rows], features=features).to_parquet(path)
            header += [f"  - split: {split}", f"    path: {place}/{split}-*"]
    (folder / "README.md").write_text("\n".join([*header, "---", ""]))


def _each(row: Callable[[int, int], Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{**row(number, pick), "image": coloured(pick, number)} for number, pick in enumerate(PICKS)]


DOCVQA = Features(
    {
        "questionId": TEXT,
        "question": TEXT,
        "question_types": Sequence(TEXT),
        "image": Image(),
        "docId": NUMBER,
        "ucsf_document_id": TEXT,
        "ucsf_document_page_no": TEXT,
        "answers": Sequence(TEXT),
        "data_split": TEXT,
    }
)


def docvqa_rows() -> list[dict[str, Any]]:
    """As the validation split has them."""
    return _each(
        lambda row, pick: {
            "questionId": str(49153 + row),
            "question": "What is the name in the header?",
            "question_types": ["handwritten", "form"],
            "docId": 14465 + row,
            "ucsf_document_id": "pybv0228",
            "ucsf_document_page_no": "81",
            "answers": [WORDS[pick], f"{WORDS[pick]} Inc."],
            "data_split": "val",
        }
    )


INFOVQA = Features(
    {
        "questionId": TEXT,
        "question": TEXT,
        "answers": Sequence(TEXT),
        "answer_type": Sequence(TEXT),
        "image": Image(),
        "image_url": TEXT,
        "operation/reasoning": Sequence(TEXT),
        "ocr": TEXT,
        "data_split": TEXT,
    }
)


def _infovqa() -> list[dict[str, Any]]:
    return _each(
        lambda row, pick: {
            "questionId": str(98313 + row),
            "question": "Which stone is named most?",
            "answers": [WORDS[pick]],
            "answer_type": ["single span"],
            "image_url": "https://example.org/stones.jpg",
            "operation/reasoning": [],
            "ocr": "[]",
            "data_split": "val",
        }
    )


CHARTQA = Features({"type": TEXT, "question": TEXT, "answer": TEXT, "image": Image()})


def _chartqa() -> list[dict[str, Any]]:
    return _each(
        lambda row, pick: {
            "type": ("human_test", "augmented_test")[row % 2],
            "question": "What is the longest bar?",
            "answer": WORDS[pick],
        }
    )


TEXTVQA = Features(
    {
        "image_id": TEXT,
        "question_id": Value("int32"),
        "question": TEXT,
        "question_tokens": Sequence(TEXT),
        "image": Image(),
        "image_width": Value("int32"),
        "image_height": Value("int32"),
        "flickr_original_url": TEXT,
        "flickr_300k_url": TEXT,
        "answers": Sequence(TEXT),
        "image_classes": Sequence(TEXT),
        "set_name": TEXT,
        "ocr_tokens": Sequence(TEXT),
    }
)


def _textvqa() -> list[dict[str, Any]]:
    return _each(
        lambda row, pick: {
            "image_id": f"003a8ae2ef43b90{row}",
            "question_id": 34602 + row,
            "question": "what is the brand of this camera?",
            "question_tokens": ["what", "is", "the", "brand", "of", "this", "camera"],
            "image_width": WIDTH,
            "image_height": HEIGHT,
            "flickr_original_url": "https://example.org/o.jpg",
            "flickr_300k_url": "https://example.org/z.jpg",
            "answers": [*[WORDS[pick]] * 8, f"The {WORDS[pick].upper()}.", "none"],
            "image_classes": ["Camera"],
            "set_name": "val",
            "ocr_tokens": ["A"],
        }
    )


OCRBENCH = Features(
    {"dataset": TEXT, "question": TEXT, "question_type": TEXT, "answer": Sequence(TEXT), "image": Image()}
)


def _ocrbench() -> list[dict[str, Any]]:
    kinds = [("IIIT5K", "Regular Text Recognition"), ("docVQA", "Doc-oriented VQA")]
    kinds += [("HME100k", "Handwritten Mathematical Expression Recognition")]
    return _each(
        lambda row, pick: {
            "dataset": kinds[row % 3][0],
            "question": "what is written in the image?",
            "question_type": kinds[row % 3][1],
            "answer": [WORDS[pick]],
        }
    )


REFCOCO = Features(
    {
        "question_id": TEXT,
        "image": Image(),
        "question": TEXT,
        "answer": Sequence(TEXT),
        "segmentation": Sequence(SHARE),
        "bbox": Sequence(SHARE),
        "iscrowd": Value("int8"),
        "file_name": TEXT,
    }
)


def refcoco_rows() -> list[dict[str, Any]]:
    """As the validation split has them; the last picture has two expressions."""

    def row(number: int, pick: int) -> dict[str, Any]:
        x1, y1, x2, y2 = BOXES[pick]
        return {
            "question_id": str(1719310 + number),
            "question": "Please carefully observe the area circled in the image and come up with a caption for it.",
            "answer": ["the stone"] * (2 if number == 5 else 1),
            "segmentation": [x1, y1, x2, y1, x2, y2],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "iscrowd": 0,
            "file_name": f"COCO_train2014_000000581857_{number}.jpg",
        }

    return _each(row)


SCREENSPOT = Features(
    {
        "file_name": TEXT,
        "bbox": Sequence(SHARE),
        "instruction": TEXT,
        "data_type": TEXT,
        "data_source": TEXT,
        "image": Image(),
    }
)


def _screenspot() -> list[dict[str, Any]]:
    return _each(
        lambda row, pick: {
            "file_name": f"pc_{row}.png",
            "bbox": [value / (WIDTH, HEIGHT)[side % 2] for side, value in enumerate(BOXES[pick])],
            "instruction": "open the menu",
            "data_type": ("text", "icon")[row % 2],
            "data_source": ("windows", "ios", "gitlab")[row % 3],
        }
    )


def write_coloured_records(folder: Path) -> Path:
    """The same pictures and answers as FineCap records, with a question of each kind; returns the folder."""
    kinds = {"doc": "Name?", "chart": "Longest bar?", "grounding": "the stone", "easyvqa": "which stone?"}
    records = []
    for number, pick in enumerate(PICKS):
        answers = {**dict.fromkeys(kinds, WORDS[pick]), "grounding": json.dumps(BOXES[pick])}
        qa: list[QA] = [{"question": text, "answers": [answers[kind]], "kind": kind} for kind, text in kinds.items()]
        picture = coloured(pick, number)["bytes"]
        records.append(new_record(f"stone-{number}", picture, (WIDTH, HEIGHT), "tests", "MIT", "test", [], qa))
    path = split_file(folder, "test", 0, 1)
    path.parent.mkdir(parents=True)
    Dataset.from_list([dict(record) for record in records], features=FINECAP_FEATURES).to_parquet(path)
    return folder
