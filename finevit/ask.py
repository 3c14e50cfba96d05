"""One picture and one question (or referring expression) to a trained FineViT-VL."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from transformers.utils import logging

import finevit_vl  # noqa: F401  (registers the classes with Auto*)
from finecap.boxes import ParsedBoxes, parse_boxes
from finecap.files import committed
from finecap.tasks.wording import question_prompt
from finevit_vl.answering import AnswerGenerator, user_turn
from finevit_vl.drawing import draw_boxes
from finevit_vl.model_folder import check_model_folder
from modeling_finevit.image_inputs import to_rgb


def open_picture(path: Path, max_image_pixels: int) -> Image.Image:
    """Read a picture of any mode as upright RGB (transparency over white).

    Raises:
        ValueError: No such file, not a picture, truncated, empty, or of more than `max_image_pixels` pixels.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such picture file.")
    return Image.fromarray(to_rgb(path, str(path), max_image_pixels).permute(1, 2, 0).numpy())


def load(model: str, device: str | None = None) -> AnswerGenerator:
    """Load a model folder (or Hub id) with its processor, without Transformers' progress bars."""
    check_model_folder(model)
    with _without_bars():
        return AnswerGenerator.from_pretrained(model, device)


@contextmanager
def _without_bars() -> Generator[None]:
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def ask(generator: AnswerGenerator, picture: Image.Image, question: str, max_new_tokens: int = 256) -> str:
    """Answer a question about a picture, greedily.

    What ends with a question mark is asked in the words of lmms-eval's short-answer tasks, as in training; anything
    else ("Describe the image.", "Transcribe all text in reading order.") is said as it stands.
    """
    _check_words(question, "question")
    words = question_prompt("short", question) if question.rstrip().endswith("?") else question
    return generator([user_turn(picture, words)], do_sample=False, max_new_tokens=max_new_tokens)[0].text.strip()


def ground(
    generator: AnswerGenerator, picture: Image.Image, expression: str, max_new_tokens: int = 256
) -> tuple[ParsedBoxes, str]:
    """Find what an expression refers to.

    Returns:
        The boxes in pixels x1, y1, x2, y2 (with what had to be skipped), and the answer as the model wrote it.
    """
    _check_words(expression, "expression")
    conversation = user_turn(picture, question_prompt("grounding", expression))
    answer = generator([conversation], do_sample=False, max_new_tokens=max_new_tokens)[0].marked_text
    return parse_boxes(answer, *picture.size), answer


def save_drawing(picture: Image.Image, parsed: ParsedBoxes, expression: str, out: Path) -> None:
    """Write the picture with its boxes drawn; small pictures are enlarged so that lines and names can be read.

    Raises:
        ValueError: Pillow knows no format of that file ending.
    """
    factor = max(1, -(-448 // max(picture.size)))
    enlarged = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    boxes = [[side * factor for side in found.box] for found in parsed.boxes]
    drawn = draw_boxes(enlarged, boxes, [found.label or expression for found in parsed.boxes])
    known = Image.registered_extensions()
    if out.suffix.lower() not in known or known[out.suffix.lower()] not in Image.SAVE:
        raise ValueError(f"{out}: no picture format is known by that ending; use .png or .jpg.")
    with committed(out) as aside:
        drawn.save(aside, format=known[out.suffix.lower()])


def _check_words(text: str, name: str) -> None:
    if not text.strip():
        raise ValueError(f"The {name} is empty; write one.")
