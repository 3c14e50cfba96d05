"""Questions about pictures, and what a vision-language model answers: in batches, and kept, so that a killed run goes
on at the question where it stopped.
"""

import hashlib
import json
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

from PIL import Image

from finecap.made_with import package_versions, weight_hashes
from finecap.pictures import MAX_PIXELS, BadPicture, open_rgb
from finevit_eval.kept import Kept
from finevit_eval.receipts import local_folder
from finevit_eval.result import GREY, Settings
from finevit_vl.answering import AnswerGenerator, Conversation, user_turn

MAX_NEW_TOKENS = 256
"""Of an answer: a line of text or a box takes far fewer."""
PACKAGES = ("torch", "torchvision", "transformers", "pillow")


@dataclass(frozen=True)
class Question:
    """One question about one picture.

    Attributes:
        id: Each once in an evaluation.
        picture: Names the picture among those of the data.
        prompt: The user's turn.
        about: What is asked for, in the data's own words, for people.
        truth: The right answer: a text, texts that are all right, or a box in pixels x1, y1, x2, y2.
        box: The box that is asked about, if it is one; pixels.
    """

    id: str
    picture: Hashable
    prompt: str
    about: str
    truth: Any
    box: list[float] | None = None


class QuestionSet(NamedTuple):
    """Questions in the order in which their pictures are stored, a reader of these pictures, and "id: reason" of what
    cannot be asked. The reader gives each picture once, in that order, with its key.
    """

    questions: list[Question]
    pictures: Callable[[Iterable[Hashable]], Iterable[tuple[Hashable, bytes]]]
    skipped: list[str]


class Answered(NamedTuple):
    """The answer with its special tokens and without them, size of the picture in pixels, SHA-256 of its bytes."""

    marked_text: str
    text: str
    width: int
    height: int
    digest: str


class _Asked(NamedTuple):
    key: str
    question: Question
    image: Image.Image
    digest: str


def ask(
    generator: AnswerGenerator,
    questions: Sequence[Question],
    pictures: Iterable[tuple[Hashable, bytes]],
    settings: Settings,
    kept: Kept,
) -> tuple[dict[str, Answered], list[str]]:
    """Asks, greedily.

    Args:
        pictures: Of the questions, by their keys.
        settings: Says whether pictures are grey (`blind`) and how many questions are asked at once.
        kept: What an interrupted run was answered, see `answer_conditions`; new answers are added to it.

    Returns:
        Answers by the ids of the questions, and "id: reason" of questions whose picture cannot be read.
    """
    answers: dict[str, Answered] = {}
    skipped: list[str] = []
    unknown = _unknown(questions, pictures, settings, kept, answers, skipped)
    while batch := list(islice(unknown, settings.batch_size)):
        turns: list[Conversation] = [user_turn(one.image, one.question.prompt) for one in batch]
        found = generator(turns, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
        new = [
            Answered(answer.marked_text, answer.text, *one.image.size, one.digest)
            for one, answer in zip(batch, found, strict=True)
        ]
        kept.put({one.key: json.dumps(answer).encode() for one, answer in zip(batch, new, strict=True)})
        answers |= {one.question.id: answer for one, answer in zip(batch, new, strict=True)}
    return answers, skipped


def _unknown(
    questions: Sequence[Question],
    pictures: Iterable[tuple[Hashable, bytes]],
    settings: Settings,
    kept: Kept,
    answers: dict[str, Answered],
    skipped: list[str],
) -> Iterator[_Asked]:
    """What has to be asked; kept answers and unreadable pictures are noted on the way."""
    by_picture: dict[Hashable, list[Question]] = {}
    for question in questions:
        by_picture.setdefault(question.picture, []).append(question)
    for name, data in pictures:
        digest = hashlib.sha256(data).hexdigest()
        asked = {_key(digest, question): question for question in by_picture[name]}
        known = kept.get(asked)
        answers |= {asked[key].id: Answered(*json.loads(value)) for key, value in known.items()}
        if len(known) == len(asked):
            continue
        try:
            image = open_rgb(data, MAX_PIXELS)
        except BadPicture as error:
            skipped.extend(f"{question.id}: {error}" for question in asked.values())
            continue
        shown = Image.new("RGB", image.size, GREY) if settings.blind else image
        yield from (_Asked(key, question, shown, digest) for key, question in asked.items() if key not in known)


def _key(digest: str, question: Question) -> str:
    return f"answer {hashlib.sha256(f'{digest} {question.id} {question.prompt}'.encode()).hexdigest()}"


def answer_conditions(model: str, generator: AnswerGenerator, settings: Settings) -> dict[str, Any]:
    """What answers depend on besides picture and question, see `Kept`."""
    return {
        "weights": weight_hashes(local_folder(model)),
        "settings": vars(settings),
        "max_pixels": max_pixels(generator),
        "versions": package_versions(PACKAGES),
    }


def max_pixels(generator: AnswerGenerator) -> Any:
    """The area budget of a picture, or the size of a processor that has none; for the receipt."""
    size = dict(generator.processor.image_processor.size)
    return size.get("longest_edge", str(size))
