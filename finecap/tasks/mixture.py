"""How often each task is asked: a mixture of expected turns a record, or a curriculum of mixtures."""

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

from finecap.tasks.wording import QA_KINDS

DENSE_TASKS = (
    "transcribe",
    "ocr_boxes",
    "text_to_box",
    "box_to_text",
    "caption_to_box",
    "box_to_caption",
    "global_caption",
    "photo_text_to_box",
    "box_to_photo_text",
    "document_text_to_box",
    "box_to_document_text",
)
ALL_QUESTIONS = "qa"  # stands for every qa kind that a mixture does not name
DEFAULT_MIXTURE: dict[str, float] = {
    "transcribe": 1.0,
    "text_to_box": 1.0,
    "box_to_text": 1.0,
    "caption_to_box": 1.0,
    "global_caption": 1.0,
}
# The five formats of FineViT's third stage in the shares of FineCap-450M: global captions 12.2 %, captions of regions
# 43.7 %, text in photographs 27.5 %, text of documents 16.6 %, both ways alike. One turn about the whole picture goes
# with that many about regions. Questions are fine-tuning's.
_PAPER_SHARES = {
    ("global_caption",): 12.2,
    ("box_to_caption", "caption_to_box"): 43.7,
    ("box_to_photo_text", "photo_text_to_box"): 27.5,
    ("box_to_document_text", "document_text_to_box"): 16.6,
}
NAMED_MIXTURES: dict[str, dict[str, float]] = {
    "paper": {ALL_QUESTIONS: 0.0}
    | {
        task: round(share / len(tasks) / _PAPER_SHARES["global_caption",], 3)
        for tasks, share in _PAPER_SHARES.items()
        for task in tasks
    }
}
Stages = Mapping[str, float] | Sequence[Mapping[str, Any]]


def check_mixture(mixture: Mapping[str, float]) -> None:
    """Check the names and weights of one mixture.

    Raises:
        ValueError: the mixture is empty, names a task that does not exist, or a weight is negative or no number.
    """
    known = sorted({*DENSE_TASKS, ALL_QUESTIONS, *QA_KINDS})
    if not mixture:
        raise ValueError(
            f"the mixture is empty; name at least one of {', '.join(known)}. {{{ALL_QUESTIONS!r}: 100}} asks every "
            "question of a record and nothing else"
        )
    for task, weight in mixture.items():
        if task not in known:
            raise ValueError(f"the mixture names {task!r}, which is no task; expected some of {', '.join(known)}")
        if not isinstance(weight, int | float) or not math.isfinite(weight) or weight < 0:
            raise ValueError(
                f"mixture[{task!r}] is {weight!r}; expected a number >= 0: the expected turns of that task"
            )


def named_mixture(given: Any) -> Stages:
    """A mixture or curriculum as a recipe gives it: itself, or the name of one of `NAMED_MIXTURES`, checked.

    Raises:
        ValueError: it is none, see `check_mixture` and `mixture_at`.
    """
    if isinstance(given, str) and given in NAMED_MIXTURES:
        return dict(NAMED_MIXTURES[given])
    if not given or not isinstance(given, Mapping | list):
        raise ValueError(
            f"mixture is {given!r}; expected turns per task, such as {{transcribe: 1}}, a curriculum, one of "
            f"the names {', '.join(NAMED_MIXTURES)}, or nothing for the default {DEFAULT_MIXTURE}"
        )
    stages: Any = [{"mixture": given}] if isinstance(given, Mapping) else given
    for stage in stages:
        if not isinstance(stage, Mapping) or not isinstance(stage.get("mixture"), Mapping):
            raise ValueError(f"a stage of the mixture is {stage!r}; expected {{until: 0.5, mixture: {{...}}}}")
        check_mixture(stage["mixture"])
    mixture_at(given, 0.0)
    return given


def mixture_at(stages: Stages, fraction: float) -> Mapping[str, float]:
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


def draw_count(weight: float, rng: random.Random) -> int:
    """A number of turns whose expectation is `weight`: its whole part, and one more with the odds of the rest."""
    whole = math.floor(weight)
    return whole + (rng.random() < weight - whole)
