"""The model's box notation put into the form that each lmms-eval task's own parser accepts.

FineViT-VL always writes `<|box_start|>(x1,y1),(x2,y2)<|box_end|>` with integers of 0-1000. The prompt of
`refcoco*_bbox_rec_*` asks for fractions of 0 to 1; training repeats these words of lmms-eval, with integers between
box marks as the answer. lmms-eval 0.7.3 wants, by task:

| tasks | form |
|---|---|
| `refcoco*_bbox_rec_*`, `finevit_grounding`, `screenspot_rec_*` | `[x1, y1, x2, y2]`, fractions of 0-1 |
| `refcoco*_grounding_*` | JSON, `[{"bbox_2d": [x1, y1, x2, y2]}]`, pixels |
| `screenspot_v2*`, `screenspot_pro*` | `[x, y]`, the centre, fractions of 0-1 |
"""

import json
import re
from collections.abc import Callable, Sequence

from finecap.boxes import parse_boxes

Box = Sequence[float]
Writer = Callable[[Sequence[Box], int, int], str]


def _fractions(boxes: Sequence[Box], width: int, height: int) -> str:
    x1, y1, x2, y2 = boxes[0]
    return f"[{x1 / width:.6f}, {y1 / height:.6f}, {x2 / width:.6f}, {y2 / height:.6f}]"


def _pixel_json(boxes: Sequence[Box], width: int, height: int) -> str:
    return json.dumps([{"bbox_2d": [round(float(value), 3) for value in box]} for box in boxes])


def _centre(boxes: Sequence[Box], width: int, height: int) -> str:
    x1, y1, x2, y2 = boxes[0]
    return f"[{(x1 + x2) / 2 / width:.6f}, {(y1 + y2) / 2 / height:.6f}]"


WRITERS: tuple[tuple[re.Pattern[str], Writer], ...] = (
    (re.compile(r"^(refcoco.*_bbox_rec(_.*)?|finevit_grounding|screenspot_rec(_.*)?)$"), _fractions),
    (re.compile(r"^refcoco.*_grounding(_.*)?$"), _pixel_json),
    (re.compile(r"^screenspot_(v2|pro)(_.*)?$"), _centre),
)


def box_writer(task: str) -> Writer | None:
    """Return the writer of a task's box form, or None for tasks whose answers are plain text."""
    return next((writer for pattern, writer in WRITERS if pattern.match(task)), None)


def answer_for_task(task: str, marked_text: str, width: int, height: int) -> str | None:
    """Rewrite the boxes of an answer for a task's parser.

    Args:
        task: Name of the lmms-eval task.
        marked_text: The answer with its special tokens.
        width: Of the picture, in pixels.
        height: Of the picture, in pixels.

    Returns:
        The text for the task's parser; "" when the answer holds no usable box (every parser scores it 0, whereas
        inverted or degenerate numbers let `refcoco/utils_rec.py` divide by zero); None when the task wants plain text.
    """
    writer = box_writer(task)
    if writer is None:
        return None
    boxes = pixel_boxes(marked_text, width, height)
    return writer(boxes, width, height) if boxes else ""


def pixel_boxes(marked_text: str, width: int, height: int) -> list[list[float]]:
    """Return the usable boxes of an answer as pixels x1, y1, x2, y2."""
    return [list(parsed.box) for parsed in parse_boxes(marked_text, width, height).boxes]
