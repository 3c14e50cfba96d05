"""Questions about the regions of FineCap records: what is written in a box, where a text stands, how many there are.

They are the dense tasks of training (FineViT's third stage), made by the same function and in the fixed wording, so
that a model is asked as it was taught; all that a record gives are asked.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from finecap.boxes import format_box
from finecap.shards.layout import needed_split_files
from finecap.tasks.conversation import Turn, record_to_turns
from finecap.tasks.wording import question_prompt
from finevit_eval.regions.asking import Question, QuestionSet
from finevit_eval.regions.stored_pictures import Row, pictures_in_parquet

ALL = 10_000
"""Turns of a task: more than any picture has."""


def box_to_ocr(data: Path, split: str) -> QuestionSet:
    """What is written in a box? The truth is the region's text."""
    return _from_regions(data, split, "box_to_text")


def ocr_to_box(data: Path, split: str) -> QuestionSet:
    """Where does a text stand? Only texts that occur once in their picture; the truth is the region's box."""
    return _from_regions(data, split, "text_to_box")


def counting(data: Path, split: str) -> QuestionSet:
    """The records' own questions of kind "count"."""
    questions: list[Question] = []
    for row, record in _records(data, split, ["id", "qa"]):
        items = [item for item in record["qa"] or [] if item["kind"] == "count" and item["answers"]]
        questions += [
            Question(
                f"{record['id']}/{place}",
                row,
                question_prompt("count", item["question"]),
                item["question"],
                item["answers"],
            )
            for place, item in enumerate(items)
        ]
    return QuestionSet(questions, pictures_in_parquet, [])


def _from_regions(data: Path, split: str, task: str) -> QuestionSet:
    questions: list[Question] = []
    skipped: list[str] = []
    for row, record in _records(data, split, ["id", "width", "height", "regions"]):
        boxes: dict[str, list[float]] = {}

        def remember(box: Sequence[float], width: int, height: int, boxes: dict[str, list[float]] = boxes) -> str:
            written = format_box(box, width, height)
            boxes[written] = list(box)
            return written

        reasons: list[str] = []
        turns = record_to_turns(record, record["id"], remember, {task: ALL}, report=reasons.append)
        skipped += [f"{record['id']}: {reason}" for reason in reasons]
        questions += [_question(f"{record['id']}/{place}", row, turn, boxes) for place, turn in enumerate(turns)]
    return QuestionSet(questions, pictures_in_parquet, skipped)


def _question(name: str, row: Row, turn: Turn, boxes: dict[str, list[float]]) -> Question:
    """`boxes` are those of the picture by their text in prompts and answers."""
    if turn.task == "text_to_box":
        return Question(name, row, turn.prompt, turn.prompt, boxes[turn.answer])
    asked = next(box for written, box in boxes.items() if written in turn.prompt)
    return Question(name, row, turn.prompt, turn.prompt, turn.answer, asked)


def _records(data: Path, split: str, columns: Iterable[str]) -> Iterator[tuple[Row, dict[str, Any]]]:
    for shard in needed_split_files(data, split):
        for number, record in enumerate(pq.read_table(shard, columns=list(columns)).to_pylist()):
            yield (shard, number), record
