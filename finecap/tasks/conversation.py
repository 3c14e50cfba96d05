"""FineCap record to conversation: which questions are asked about a picture, in which words and order.

Source of the dense tasks: FineViT, stage III (global caption, box to text, text to box, box to OCR, OCR to box).
"""

import random
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from finecap.records import REGION_KINDS, TEXT_KINDS, check_box, read_grounding_answer, text_lines
from finecap.tasks import wording as prompts
from finecap.tasks.mixture import ALL_QUESTIONS, DEFAULT_MIXTURE, DENSE_TASKS, check_mixture, draw_count

FormatBox = Callable[[Sequence[float], int, int], str]
Report = Callable[[str], None]


class _RegionTask(NamedTuple):
    """A task about single regions: whose wordings it has, and which kinds of regions it asks about."""

    worded: str
    kinds: tuple[str, ...]


_NOT_TEXT = tuple(kind for kind in REGION_KINDS if kind not in TEXT_KINDS)
_REGION_TASKS = {
    "text_to_box": _RegionTask("text_to_box", TEXT_KINDS),
    "box_to_text": _RegionTask("box_to_text", TEXT_KINDS),
    "photo_text_to_box": _RegionTask("text_to_box", ("text",)),
    "box_to_photo_text": _RegionTask("box_to_text", ("text",)),
    "document_text_to_box": _RegionTask("text_to_box", ("document_text",)),
    "box_to_document_text": _RegionTask("box_to_text", ("document_text",)),
    "caption_to_box": _RegionTask("caption_to_box", _NOT_TEXT),
    "box_to_caption": _RegionTask("box_to_caption", _NOT_TEXT),
}


class Turn(NamedTuple):
    """One question and its answer; `task` is the qa kind or the dense task that made it."""

    prompt: str
    answer: str
    task: str


def record_to_turns(
    record: Mapping[str, Any],
    seed: str,
    format_box: FormatBox,
    mixture: Mapping[str, float] = DEFAULT_MIXTURE,
    max_turns: int | None = None,
    report: Report | None = None,
    control_tokens: re.Pattern[str] | None = None,
    wordings: Mapping[str, Sequence[str]] | None = None,
) -> list[Turn]:
    """The conversation about one picture.

    `mixture` gives the expected number of turns of each dense task and each qa kind: 1 is "always one", 0.3 "in three
    records of ten", 2.5 "two, and a third in half of the records". The key "qa" stands for all qa kinds that are not
    named; without it every question of the record is asked. A dense task that is not named is not drawn.

    Args:
        record: a FineCap record; boxes in absolute pixels x1,y1,x2,y2.
        seed: names this sample of the record, for instance "seed/epoch/index". Every task draws from a stream of its
            own, `Random(f"{seed}/{task}")`, so that a task which is added or left out changes no other task's turns.
        format_box: writes a pixel box as the text the model learns, given (box, width, height); raises ValueError on a
            box that has no such text.
        max_turns: most turns of a conversation; the first of the drawn order are kept.
        report: is called with a reason ("kind: detail") for every item that had to be left out.
        control_tokens: finds what a tokenizer would read as one of its special tokens. Words of the record that hold
            one are left out: only the boxes that `format_box` writes and the chat template may use such tokens.
        wordings: of the dense tasks' prompts, see `load_wordings`; each turn draws one, from its task's stream for
            wordings. The fixed ones without it.

    Returns:
        The turns in random order; empty when nothing can be asked.

    Raises:
        ValueError: the mixture is none, see `check_mixture`.
    """
    check_mixture(mixture)
    builder = _Builder(record, seed, format_box, report or (lambda reason: None), control_tokens, wordings)
    turns = builder.questions(mixture)
    for task in DENSE_TASKS:
        turns += builder.dense(task, mixture.get(task, 0.0))
    random.Random(f"{seed}/order").shuffle(turns)
    return turns if max_turns is None else turns[:max_turns]


class _Builder:
    """Makes the turns of one record."""

    def __init__(
        self,
        record: Mapping[str, Any],
        seed: str,
        format_box: FormatBox,
        report: Report,
        control_tokens: re.Pattern[str] | None,
        wordings: Mapping[str, Sequence[str]] | None,
    ) -> None:
        self.record = record
        self.seed = seed
        self.format_box = format_box
        self.report = report
        self.control_tokens = control_tokens
        self.wordings = wordings
        self.regions: list[Mapping[str, Any]] = record.get("regions") or []

    def rng(self, task: str) -> random.Random:
        """The random numbers of one task or qa kind."""
        return random.Random(f"{self.seed}/{task}")

    def words(self, text: str | None, what: str) -> str:
        """The record's words without white space around them; empty, and reported, if they hold a control token."""
        text = (text or "").strip()
        if self.control_tokens and (found := self.control_tokens.search(text)):
            self.report(f"a special token stands in the data: {found.group()!r} in the {what} {text[:80]!r}")
            return ""
        return text

    def box(self, bbox: Any, what: str) -> str | None:
        """A pixel box as text; None, and reported, if it is no box of this picture or too thin to be written."""
        width, height = self.record["width"], self.record["height"]
        try:
            check_box(bbox, width, height, "its box")
            return self.format_box(bbox, width, height)
        except ValueError as error:
            self.report(f"a box cannot be written: {what}: {error}")
            return None

    def questions(self, mixture: Mapping[str, float]) -> list[Turn]:
        """Turns of the record's own questions, as many of each kind as the mixture draws."""
        by_kind: dict[str, list[Mapping[str, Any]]] = {}
        for item in self.record.get("qa") or []:
            by_kind.setdefault(item["kind"], []).append(item)
        turns = []
        for kind, items in by_kind.items():
            weight = mixture.get(kind, mixture.get(ALL_QUESTIONS))
            if weight is not None:
                rng = self.rng(f"qa/{kind}")
                items = rng.sample(items, min(len(items), draw_count(weight, rng)))
            turns += [turn for item in items if (turn := self.question(kind, item))]
        return turns

    def question(self, kind: str, item: Mapping[str, Any]) -> Turn | None:
        """One question with its first answer, a "grounding" answer as a box in text; None, and reported, without."""
        question = self.words(item["question"], "question")
        answers = [answer for text in item["answers"] or [] if (answer := self.words(text, "answer"))]
        if not question or not answers:
            self.report(f"a question or its answer is empty: of kind {kind!r}")
            return None
        answer = answers[0]
        if kind == "grounding":
            what = f"grounding question {question!r}"
            try:
                bbox = read_grounding_answer(answer, what)
            except ValueError as error:
                self.report(f"a grounding answer is no box: {error}")
                return None
            box = self.box(bbox, what)
            if box is None:
                return None
            answer = box
        return Turn(prompts.question_prompt(kind, question), answer, kind)

    def dense(self, task: str, weight: float) -> list[Turn]:
        """Turns of one dense task, as many as `weight` draws; the whole picture is asked about once at most."""
        rng = self.rng(task)
        wanted = draw_count(weight, rng)
        if not wanted:
            return []
        if task in _REGION_TASKS:
            return self.region_turns(task, _REGION_TASKS[task], wanted, rng)
        answer = self.whole_picture(task)
        return [self.turn(task, task, rng=self.rng(f"{task}/wording"), answer=answer)] if answer else []

    def turn(self, task: str, worded: str, rng: random.Random, answer: str, **filled: str) -> Turn:
        """A turn in one of the wordings of `worded`."""
        wording = rng.choice(self.wordings[worded]) if self.wordings else prompts.FIXED_WORDINGS[worded]
        return Turn(wording.format(**filled), answer, task)

    def whole_picture(self, task: str) -> str:
        """The answer of a task about the whole picture; empty where there is none."""
        if task == "transcribe":
            return "\n".join(words for _, words in self.lines())
        if task == "ocr_boxes":
            return self.lines_with_boxes()
        return self.words(self.record.get("global_caption"), "global caption")

    def lines(self) -> list[tuple[Mapping[str, Any], str]]:
        """Lines of text in reading order (the record's order) with their words; none at all if one of them has to be
        left out, because a transcript with a gap would teach to skip lines.
        """
        texts = [r for r in self.regions if r["kind"] in TEXT_KINDS and (r.get("text") or "").strip()]
        lines = [(region, self.words(region["text"], "text")) for region in text_lines(texts)]
        return lines if all(words for _, words in lines) else []

    def lines_with_boxes(self) -> str:
        """Every line with its box; lines whose box cannot be written are left out."""
        rows = []
        for region, words in self.lines():
            box = self.box(region["bbox"], "text region")
            if box is not None:
                rows.append(words + box)
        return "\n".join(rows)

    def region_turns(self, task: str, asked: "_RegionTask", wanted: int, rng: random.Random) -> list[Turn]:
        """Turns about single regions; a text or caption that occurs twice cannot be asked for by its words."""
        field = "text" if asked.kinds is not _NOT_TEXT else "caption"
        of_field = [r for r in self.regions if (r["kind"] in TEXT_KINDS) == (field == "text")]
        named = [(region, words) for region in of_field if (words := self.words(region.get(field), field))]
        if asked.worded in ("text_to_box", "caption_to_box"):
            counts = Counter(words.lower() for _, words in named)
            named = [(region, words) for region, words in named if counts[words.lower()] == 1]
        named = [(region, words) for region, words in named if region["kind"] in asked.kinds]
        turns, wording = [], self.rng(f"{task}/wording")
        for region, words in rng.sample(named, min(len(named), wanted)):
            box = self.box(region["bbox"], f"region {words!r}")
            if box is None:
                continue
            if asked.worded in ("text_to_box", "caption_to_box"):
                turns.append(self.turn(task, asked.worded, wording, answer=box, **{field: words}))
            else:
                turns.append(self.turn(task, asked.worded, wording, answer=words, box=box))
        return turns
