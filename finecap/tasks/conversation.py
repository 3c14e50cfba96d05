"""FineCap record to conversation: which questions are asked about a picture, in which words and order.

Source of the dense tasks: FineViT, stage III (global caption, box to text, text to box, box to OCR, OCR to box).
"""

import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from finecap.tasks import wording as prompts

FormatBox = Callable[[Sequence[float], int, int], str]
Report = Callable[[str], None]

TEXT_KINDS = ("text", "document_text")
DENSE_TASKS = (
    "transcribe",
    "ocr_boxes",
    "text_to_box",
    "box_to_text",
    "caption_to_box",
    "box_to_caption",
    "global_caption",
)
DEFAULT_MIXTURE: dict[str, float] = {"transcribe": 1.0, "text_to_box": 1.0, "box_to_text": 1.0, "caption_to_box": 1.0}


class Turn(NamedTuple):
    """One question and its answer; `task` is the qa kind or the dense task that made it."""

    prompt: str
    answer: str
    task: str


def record_to_turns(
    record: Mapping[str, Any],
    rng: random.Random,
    format_box: FormatBox,
    mixture: Mapping[str, float] = DEFAULT_MIXTURE,
    max_turns: int | None = None,
    report: Report | None = None,
) -> list[Turn]:
    """The conversation about one picture.

    `mixture` gives the expected number of turns of each dense task and each qa kind: 1 is "always one", 0.3 "in three
    records of ten", 2.5 "two, and a third in half of the records". The key "qa" stands for all qa kinds that are not
    named; without it every question of the record is asked. A dense task that is not named is not drawn.

    Args:
        record: a FineCap record; boxes in absolute pixels x1,y1,x2,y2.
        rng: draws which turns are asked and in which order, and nothing else draws from it.
        format_box: writes a pixel box as the text the model learns, given (box, width, height); raises ValueError on a
            box that has no such text.
        max_turns: keeps the first so many turns of the drawn order.
        report: is called with a reason for every item that had to be left out.

    Returns:
        The turns in random order; empty when nothing can be asked.

    Raises:
        ValueError: a weight of the mixture is negative or no number.
    """
    check_mixture(mixture)
    report = report or (lambda reason: None)
    builder = _Builder(record, rng, format_box, report)
    turns = builder.questions(mixture)
    for task in DENSE_TASKS:
        wanted = _draw_count(mixture.get(task, 0.0), rng)
        if wanted:
            turns += builder.dense(task, wanted)
    rng.shuffle(turns)
    return turns if max_turns is None else turns[:max_turns]


def check_mixture(mixture: Mapping[str, float]) -> None:
    """Raises ValueError when a weight is negative or not a number."""
    for task, weight in mixture.items():
        if not isinstance(weight, int | float) or not math.isfinite(weight) or weight < 0:
            raise ValueError(
                f"mixture[{task!r}] is {weight!r}; expected a number >= 0: the expected turns of that task"
            )


def mixture_at(stages: Sequence[Mapping[str, Any]] | Mapping[str, float], fraction: float) -> Mapping[str, float]:
    """The mixture that holds at `fraction` (0 to 1) of the training.

    Args:
        stages: one mixture for the whole run, or a curriculum: `[{"until": 0.4, "mixture": {...}}, {"until": 1.0,
            ...}]`.

    Raises:
        ValueError: stages are empty, not in rising order, or do not reach 1.
    """
    if isinstance(stages, Mapping):
        return stages
    ends = [stage["until"] for stage in stages]
    if not ends or ends != sorted(ends) or ends[-1] < 1.0:
        raise ValueError(
            f"curriculum stages end at {ends}; expected rising fractions of the training, the last one 1.0"
        )
    return next(stage["mixture"] for stage in stages if fraction <= stage["until"] or stage is stages[-1])


def _draw_count(weight: float, rng: random.Random) -> int:
    whole = math.floor(weight)
    return whole + (rng.random() < weight - whole)


class _Builder:
    """Makes the turns of one record."""

    def __init__(self, record: Mapping[str, Any], rng: random.Random, format_box: FormatBox, report: Report) -> None:
        self.record = record
        self.rng = rng
        self.format_box = format_box
        self.report = report
        self.regions: list[Mapping[str, Any]] = record.get("regions") or []

    def box(self, bbox: Sequence[float], what: str) -> str | None:
        try:
            return self.format_box(bbox, self.record["width"], self.record["height"])
        except ValueError as error:
            self.report(f"{what}: {error}")
            return None

    def questions(self, mixture: Mapping[str, float]) -> list[Turn]:
        by_kind: dict[str, list[Mapping[str, Any]]] = {}
        for item in self.record.get("qa") or []:
            by_kind.setdefault(item["kind"], []).append(item)
        turns = []
        for kind, items in by_kind.items():
            weight = mixture.get(kind, mixture.get("qa"))
            if weight is not None:
                items = self.rng.sample(items, min(len(items), _draw_count(weight, self.rng)))
            turns += [turn for item in items if (turn := self.question(kind, item))]
        return turns

    def question(self, kind: str, item: Mapping[str, Any]) -> Turn | None:
        question = item["question"].strip()
        answers = [answer.strip() for answer in item["answers"] if answer.strip()]
        if not question or not answers:
            self.report(f"qa item of kind {kind!r} has no question or no answer")
            return None
        answer = answers[0]
        if kind == "grounding":
            box = self.box(json.loads(answer), f"grounding question {question!r}")
            if box is None:
                return None
            answer = box
        return Turn(prompts.question_prompt(kind, question), answer, kind)

    def dense(self, task: str, wanted: int) -> list[Turn]:
        if task == "transcribe":
            text = "\n".join(region["text"].strip() for region in self.lines())
            return [Turn(prompts.TRANSCRIBE, text, task)] if text else []
        if task == "ocr_boxes":
            return self.ocr_boxes()
        if task == "global_caption":
            caption = (self.record.get("global_caption") or "").strip()
            return [Turn(prompts.GLOBAL_CAPTION, caption, task)] if caption else []
        return self.region_turns(task, wanted)

    def lines(self) -> list[Mapping[str, Any]]:
        """Text regions in reading order (the record's order), at the coarsest level that still has single lines."""
        texts = [r for r in self.regions if r["kind"] in TEXT_KINDS and (r.get("text") or "").strip()]
        lines = [r for r in texts if r["label"] == "line"]
        return lines or [r for r in texts if r["label"] not in ("block", "paragraph", "page")]

    def ocr_boxes(self) -> list[Turn]:
        rows = []
        for region in self.lines():
            box = self.box(region["bbox"], "text region")
            if box is not None:
                rows.append(region["text"].strip() + box)
        return [Turn(prompts.OCR_BOXES, "\n".join(rows), "ocr_boxes")] if rows else []

    def region_turns(self, task: str, wanted: int) -> list[Turn]:
        """Turns about single regions; a text or caption that occurs twice cannot be asked for by its words."""
        about_text = task in ("text_to_box", "box_to_text")
        field = "text" if about_text else "caption"
        named = [(r, (r.get(field) or "").strip()) for r in self.regions if (r["kind"] in TEXT_KINDS) == about_text]
        named = [(r, words) for r, words in named if words]
        if task in ("text_to_box", "caption_to_box"):
            counts: dict[str, int] = {}
            for _, words in named:
                counts[words.lower()] = counts.get(words.lower(), 0) + 1
            named = [(r, words) for r, words in named if counts[words.lower()] == 1]
        turns = []
        for region, words in self.rng.sample(named, min(len(named), wanted)):
            box = self.box(region["bbox"], f"region {words!r}")
            if box is not None:
                turns.append(_region_turn(task, words, box))
        return turns


def _region_turn(task: str, words: str, box: str) -> Turn:
    if task == "text_to_box":
        return Turn(prompts.TEXT_TO_BOX.format(text=words), box, task)
    if task == "caption_to_box":
        return Turn(prompts.GROUNDING_PRE_PROMPT + words, box, task)
    template = prompts.BOX_TO_TEXT if task == "box_to_text" else prompts.BOX_TO_CAPTION
    return Turn(template.format(box=box), words, task)
