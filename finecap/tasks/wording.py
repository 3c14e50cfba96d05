"""The words of every question that FineViT-VL is trained on and measured with, in one place.

The first group repeats lmms-eval 0.7.3 word for word (`docvqa_val`, `chartqa`, `refcoco_bbox_rec_*`), so that
training, the local tasks and the public benchmarks ask in the same way; a test compares them with the installed tasks.
The second group words the dense tasks of FineViT's third stage (global caption, box to text, text to box, box to OCR,
OCR to box); a recipe may ask for more wordings of them, see `load_wordings`.
"""

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from string import Formatter
from typing import Any

import yaml

DOC_POST_PROMPT = "\nAnswer the question using a single word or phrase."
CHART_POST_PROMPT = "\nAnswer the question with a single word."
# easy-vqa has no lmms-eval task; it gets the suffix that lmms-eval's short-answer tasks share.
SHORT_ANSWER_POST_PROMPT = DOC_POST_PROMPT
GROUNDING_PRE_PROMPT = (
    "Bounding box coordinates are specified in the format (top-left x, top-left y, bottom-right x, bottom-right y). "
    "All values are floating point numbers bounded between 0 and 1. "
    "Please provide the bounding box coordinate of the region this sentence describes: "
)

TRANSCRIBE = "Transcribe all text in reading order."
OCR_BOXES = "Transcribe all text line by line, each line with its box."
TEXT_TO_BOX = 'Locate the text "{text}".'
BOX_TO_TEXT = "What is written in {box}?"
BOX_TO_CAPTION = "Describe {box}."
GLOBAL_CAPTION = "Describe the image."

# The kinds of question that a record's `qa` may hold; `question_prompt` words them.
QA_KINDS = ("doc", "chart", "grounding", "easyvqa", "attribute", "count", "relation", "transcribe", "caption")

# The fixed wording of each dense task; what stands in braces is filled in.
FIXED_WORDINGS = {
    "transcribe": TRANSCRIBE,
    "ocr_boxes": OCR_BOXES,
    "text_to_box": TEXT_TO_BOX,
    "box_to_text": BOX_TO_TEXT,
    "caption_to_box": GROUNDING_PRE_PROMPT + "{caption}",
    "box_to_caption": BOX_TO_CAPTION,
    "global_caption": GLOBAL_CAPTION,
}
ONE, SEVERAL = "one", "several"  # the values of a recipe's `wordings` that are no file

# What stays the same in every fixed prompt, for tokenizers of tiny models that spend one token on each.
FIXED_SENTENCES = (
    DOC_POST_PROMPT,
    CHART_POST_PROMPT,
    GROUNDING_PRE_PROMPT,
    TRANSCRIBE,
    OCR_BOXES,
    'Locate the text "',
    "What is written in ",
    "Describe ",
    GLOBAL_CAPTION,
)


def question_prompt(kind: str, question: str) -> str:
    """The user's turn for a question of a FineCap record.

    Args:
        kind: the `kind` of the record's qa item; "doc", "chart" and "grounding" get the words of lmms-eval's
            `docvqa_val`, `chartqa` and `refcoco_bbox_rec_*`, "transcribe" and "caption" are asked as they stand, every
            other kind is a short-answer question.
        question: the question, or for "grounding" the referring expression alone.
    """
    if kind == "grounding":
        return GROUNDING_PRE_PROMPT + question
    if kind == "chart":
        return question + CHART_POST_PROMPT
    if kind in ("transcribe", "caption"):
        return question
    return question + (DOC_POST_PROMPT if kind == "doc" else SHORT_ANSWER_POST_PROMPT)


def load_wordings(given: str) -> dict[str, list[str]]:
    """The wordings of every dense task, the fixed one first.

    Args:
        given: "one": the fixed ones alone, with which evaluations ask; "several": those of `wordings.yaml` as well; or
            the path of a YAML file like that one. A task that a file does not name has its fixed wording alone.

    Raises:
        ValueError: there is no such file, it names no task, or a wording lacks a placeholder or has another.
    """
    more: Any = {}
    if given == SEVERAL:
        more = yaml.safe_load(files("finecap.tasks").joinpath("wordings.yaml").read_text(encoding="utf-8"))
    elif given != ONE:
        try:
            more = yaml.safe_load(Path(given).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ValueError(
                f"wordings is {given!r}: {error}; expected {ONE}, {SEVERAL} or the path of a YAML file"
            ) from error
    _check_wordings(more, given)
    return {task: list(dict.fromkeys([fixed, *more.get(task, [])])) for task, fixed in FIXED_WORDINGS.items()}


def _check_wordings(more: Any, where: str) -> None:
    if not isinstance(more, Mapping) or not set(more) <= set(FIXED_WORDINGS):
        found = sorted(map(str, set(more) - set(FIXED_WORDINGS))) if isinstance(more, Mapping) else more
        raise ValueError(f"wordings {where}: holds {found!r}; expected lists of texts for {', '.join(FIXED_WORDINGS)}")
    for task, wordings in more.items():
        if not isinstance(wordings, list) or not all(isinstance(one, str) and one.strip() for one in wordings):
            raise ValueError(f"wordings {where}: {task} is {wordings!r}; expected a list of texts")
        expected = _placeholders(FIXED_WORDINGS[task]) or []
        for wording in wordings:
            if _placeholders(wording) != expected:
                held = ", ".join(f"{{{name}}}" for name in expected) or "nothing in braces"
                raise ValueError(f"wordings {where}: {task} has {wording!r}; expected a text that holds {held}, once")


def _placeholders(wording: str) -> list[str] | None:
    """Names in braces; None where braces hold anything else or do not match."""
    try:
        parts = [part[1:] for part in Formatter().parse(wording) if part[1] is not None]
    except ValueError:
        return None
    return [str(name) for name, _, _ in parts] if all(part[1:] == ("", None) for part in parts) else None
