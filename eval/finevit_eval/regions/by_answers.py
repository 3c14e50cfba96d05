"""The runner of what a vision-language model is asked about regions: to read, to find, to count."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from finevit_eval.kept import KEPT_FILE, Kept
from finevit_eval.regions import expressions, record_questions
from finevit_eval.regions.asking import (
    MAX_NEW_TOKENS,
    Answered,
    Question,
    QuestionSet,
    answer_conditions,
    ask,
    max_pixels,
)
from finevit_eval.regions.finding import judge_boxes, judge_boxes_by_size
from finevit_eval.regions.mixing import draw
from finevit_eval.regions.transcribing import judge_counting, judge_reading
from finevit_eval.result import Measured, Outcome, Settings
from finevit_eval.retrieval.pool import fingerprint
from finevit_vl.answering import AnswerGenerator


class _Task(NamedTuple):
    """Where an evaluation has its questions from, given data and split, and how their answers are scored."""

    read: Callable[[Path, str], QuestionSet]
    judge: Callable[[Sequence[Question], Sequence[Answered]], Outcome]


TASKS = {
    "box_to_ocr": _Task(record_questions.box_to_ocr, judge_reading),
    "ocr_to_box": _Task(record_questions.ocr_to_box, judge_boxes),
    "counting": _Task(record_questions.counting, judge_counting),
    "refcoco": _Task(expressions.refcoco, judge_boxes),
    "ref_l4": _Task(expressions.ref_l4, judge_boxes_by_size),
}


def ask_about_regions(names: Sequence[str], model: str, data: Path, out: Path, settings: Settings) -> Measured:
    """Ask a vision-language model about regions.

    Args:
        names: Of `TASKS`.
        model: Folder of model and processor, or a Hub id.
        data: In the layout of the evaluations.
        out: For the answers that an interrupted run was given.
        settings: How.

    Raises:
        ValueError: Model, data or settings cannot be used.
    """
    sets = {name: _drawn(name, data, settings) for name in names}
    generator = AnswerGenerator.from_pretrained(model, settings.device, settings.dtype, settings.max_pixels)
    skipped = [reason for asked in sets.values() for reason in asked.skipped]
    outcomes: dict[str, Outcome] = {}
    with Kept(out / KEPT_FILE, answer_conditions(model, generator, settings)) as kept:
        for name, asked in sets.items():
            pictures = asked.pictures(dict.fromkeys(question.picture for question in asked.questions))
            answers, unreadable = ask(generator, asked.questions, pictures, settings, kept)
            skipped += unreadable
            outcomes[name] = _outcome(name, asked, answers)
    facts = {
        "max_pixels": max_pixels(generator),
        "device": str(generator.model.device),
        "dtype": str(generator.model.dtype).removeprefix("torch."),
        "skipped": list(dict.fromkeys(skipped)),
    }
    return Measured(outcomes, facts)


def _drawn(name: str, data: Path, settings: Settings) -> QuestionSet:
    found = TASKS[name].read(data, settings.split)
    if not found.questions:
        raise ValueError(
            f"{data} has no question for {name} in split {settings.split!r} ({len(found.skipped)} unusable); "
            "leave that evaluation out."
        )
    return found._replace(questions=draw(found.questions, settings.limit, settings.seed))


def _outcome(name: str, asked: QuestionSet, answers: dict[str, Answered]) -> Outcome:
    """Raises ValueError where no picture is there or readable."""
    questions = [question for question in asked.questions if question.id in answers]
    if not questions:
        raise ValueError(f"{name}: none of the pictures of {len(asked.questions)} questions is there and can be read.")
    answered = [answers[question.id] for question in questions]
    facts = {
        "prompt": questions[0].prompt,
        "generation_kwargs": {"max_new_tokens": MAX_NEW_TOKENS, "do_sample": False},
        "unanswered": len(asked.questions) - len(questions),
        "fingerprint": fingerprint(
            (question.id, f"{question.prompt}\0{question.truth}", answer.digest)
            for question, answer in zip(questions, answered, strict=True)
        ),
    }

    def pictures(digests: set[str]) -> Iterator[tuple[str, bytes]]:
        shown = {one.digest: question.picture for question, one in zip(questions, answered, strict=True)}
        wanted = {picture: digest for digest, picture in shown.items() if digest in digests}
        return ((wanted[picture], data) for picture, data in asked.pictures(wanted))

    return replace(TASKS[name].judge(questions, answered), facts=facts, pictures=pictures)
