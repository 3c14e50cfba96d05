"""Open-vocabulary detectors: which boxes of a picture a phrase means. The boxes pass asks them for noun phrases, the
verify pass for whole captions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from PIL import Image

from finecap.pictures import encoded

Box = tuple[float, float, float, float]
JPEG_SIDE = 65_500  # libjpeg's JPEG_MAX_DIMENSION


class Detection(NamedTuple):
    """A box that was found.

    Attributes:
        bbox: x1, y1, x2, y2 in pixels of the picture, x2 and y2 exclusive; it may reach over the edge.
        phrase: index into the phrases that were asked for.
        score: 0-1; None from detectors that give none.
    """

    bbox: Box
    phrase: int
    score: float | None


class DetectionFailed(Exception):
    """This picture could not be looked at, after all retries; the text is "kind: detail", fit for `reject`."""


class Detector(Protocol):
    """What finds boxes. `name` says for the record what it is: kind, version, where it matters a hash of the
    weights.
    """

    name: str

    async def detect(self, image: Image.Image, phrases: Sequence[str]) -> list[Detection]:
        """Boxes of the phrases in one picture, unordered, before any suppression.

        Args:
            image: RGB, upright.
            phrases: of the caption; none gives no boxes.

        Raises:
            DetectionFailed: for this picture, whatever is tried.
            StopRun: there is no detector to ask any more.
        """
        ...


def jpeg(image: Image.Image) -> bytes:
    """An RGB picture as it is sent to a detector elsewhere, all but lossless.

    Raises:
        DetectionFailed: one of its sides is longer than a JPEG can have.
    """
    if max(image.size) > JPEG_SIDE:
        raise DetectionFailed(f"too long for a detector: {image.width}x{image.height} pixels, a JPEG has {JPEG_SIDE}")
    return encoded(image, "JPEG", quality=95, subsampling=0)
