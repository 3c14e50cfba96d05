"""Referring expressions with the box of what they mean: RefCOCO, RefCOCO+, RefCOCOg and Ref-L4 as published."""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from finecap.shards.layout import split_files
from finecap.tasks.wording import question_prompt
from finevit_eval.regions.asking import Question, QuestionSet
from finevit_eval.regions.layout_names import REF_L4, REFCOCO
from finevit_eval.regions.stored_pictures import pictures_in_parquet, pictures_in_tar

TAR = "images.tar.gz"


def refcoco(data: Path, split: str) -> QuestionSet:
    """One question for each expression of each row, as lmms-eval's `refcoco*_bbox_rec_*` asks.

    Args:
        data: `data/<split>-*.parquet` with question_id, image, answer (expressions) and bbox (x, y, width, height).
        split: "val", "test", "testA" or "testB".
    """
    files = split_files(data, split)
    if not files:
        raise ValueError(_no_split(data, split, REFCOCO, sorted(one.name for one in (data / "data").glob("*"))))
    questions: list[Question] = []
    skipped: list[str] = []
    for path in files:
        for number, row in enumerate(_read(path, ["question_id", "answer", "bbox"], REFCOCO)):
            expressions = ((f"{row['question_id']}/{place}", text) for place, text in enumerate(row["answer"] or []))
            _add(questions, skipped, expressions, (path, number), row["bbox"])
    return QuestionSet(questions, pictures_in_parquet, skipped)


def ref_l4(data: Path, split: str) -> QuestionSet:
    """One question for each row.

    Args:
        data: `ref-l4-<split>.parquet` with id, caption, bbox (x, y, width, height) and file_name; the pictures in
            `images.tar.gz` or, unpacked, under the same names.
        split: "val" or "test".
    """
    path = data / f"ref-l4-{split}.parquet"
    if not path.is_file():
        raise ValueError(_no_split(data, split, REF_L4, sorted(one.name for one in data.glob("*.parquet"))))
    questions: list[Question] = []
    skipped: list[str] = []
    for row in _read(path, ["id", "caption", "bbox", "file_name"], REF_L4):
        _add(questions, skipped, [(str(row["id"]), row["caption"])], row["file_name"], row["bbox"])

    def pictures(names: Iterable[Hashable]) -> Iterator[tuple[str, bytes]]:
        asked = dict.fromkeys(str(name) for name in names)
        if (data / TAR).is_file():
            return pictures_in_tar(data / TAR, asked)
        return ((name, (data / name).read_bytes()) for name in asked if (data / name).is_file())

    return QuestionSet(questions, pictures, skipped)


def _add(
    questions: list[Question],
    skipped: list[str],
    expressions: Iterable[tuple[str, str]],
    picture: Hashable,
    bbox: Sequence[float],
) -> None:
    x, y, width, height = bbox
    for name, text in expressions:
        if width > 0 and height > 0:
            box = [x, y, x + width, y + height]
            questions.append(Question(name, picture, question_prompt("grounding", text), text, box))
        else:
            skipped.append(f"{name}: its box {list(bbox)} is empty")


def _read(path: Path, columns: list[str], layout: str) -> list[dict[str, Any]]:
    missing = set(columns) - set(pq.read_schema(path).names)
    if missing:
        raise ValueError(f"{path} has no columns {', '.join(sorted(missing))}; expected {layout}.")
    return pq.read_table(path, columns=columns).to_pylist()


def _no_split(data: Path, split: str, layout: str, there: Sequence[str]) -> str:
    return f"{data} has no split {split!r} (there is {', '.join(there) or 'nothing'}); choose with --split; {layout}."
