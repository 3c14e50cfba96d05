"""A sample as the report's card shows it: texts, its picture and boxes, and the pictures that were confused."""

import base64
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from PIL import Image

from finevit_eval.report.examples import Example
from finevit_eval.shown import MOST_SIDE, KeptPicture, encoded, is_right

ENLARGE = 3
"""Small pictures are shown at three times their size, pixels kept sharp."""
SMALL_SIDE = 320
"""Of pictures that stand beside others (pixels)."""


def card(example: Example) -> dict[str, Any]:
    """What the template needs of an example."""
    sample = example.sample
    return {
        "task": example.title,
        "model": example.model,
        "question": _words(sample, "question"),
        "correct": is_right(sample),
        "score": _score(example),
        "lines": list(_lines(example)),
        "picture": None if example.picture is None else picture(example.picture) | {"boxes": list(_boxes(sample))},
        "confused": [picture(one, SMALL_SIDE) for one in example.confused],
    }


def picture(kept: KeptPicture, most_side: int = MOST_SIDE) -> dict[str, Any]:
    """A picture that the page holds, and how large it is shown; boxes stay in pixels of the data.

    Args:
        most_side: Larger pictures are scaled down (pixels).
    """
    with Image.open(io.BytesIO(kept.data)) as image:
        data = encoded(image.convert("RGB"), most_side) if max(image.size) > most_side else kept.data
    small = max(kept.width, kept.height) * ENLARGE <= MOST_SIDE
    size = {"width": kept.width, "height": kept.height, "shown_width": min(ENLARGE * kept.width, MOST_SIDE)}
    return {**size, "pixelated": small, "source": data_uri(data)}


def data_uri(data: bytes) -> str:
    """A PNG or WebP file inside the page."""
    kind = "png" if data.startswith(b"\x89PNG") else "webp"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _score(example: Example) -> str:
    sample = example.sample
    if "iou" in sample:
        return f"IoU {sample['iou']:.2f}"
    if "rank" in sample:
        return f"rank {sample['rank']:,}"
    return f"{example.metric} {sample['score']:.2f}"


def _lines(example: Example) -> Iterator[tuple[str, str, str]]:
    """Name, text and CSS class of each line."""
    sample, blind = example.sample, example.blind or {}
    if (words := _words(sample, "prediction")) is not None:
        yield ("Answer" if _words(sample, "question") else "Predicted"), words, "answer"
    if (words := _words(sample, "truth")) is not None:
        yield "Truth", words, "truth-text"
    if (words := _words(blind, "prediction")) is not None:
        yield "Blind", words, "blind-text"
    if "confidence" in sample:
        yield "Confidence", f"{sample['confidence']:.3g}", "confidence"


def _words(sample: Mapping[str, Any], key: str) -> str | None:
    """A text of a sample as a reader wants it: alternatives joined, boxes as whole pixels. None where there is none,
    or the id of a picture, which says nothing to a reader.
    """
    if key not in sample or sample[key] in (sample["group"], *sample.get("confused", ())):
        return None
    value = sample[key]
    if value is None:
        return "no box" if "iou" in sample else "none"
    if value == "":
        return "no answer"
    if not isinstance(value, list):
        return str(value)
    if all(isinstance(item, (int, float)) and math.isfinite(item) for item in value):
        return f"({', '.join(str(round(item)) for item in value)})"
    return " / ".join(dict.fromkeys(map(str, value)))


def _boxes(sample: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    boxes = [("asked", sample.get("box"))]
    boxes += [("truth", sample["truth"]), ("predicted", sample["prediction"])] if "iou" in sample else []
    yield from (_rectangle(name, box) for name, box in boxes if box is not None)


def _rectangle(name: str, box: Sequence[float]) -> dict[str, Any]:
    x1, y1, x2, y2 = box
    return {"name": name, "x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1}
