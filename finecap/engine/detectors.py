"""Open-vocabulary detectors: which boxes of a picture a phrase means. The boxes pass asks them for noun phrases, the
verify pass for whole captions.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from PIL import Image

from finecap.engine.captioners import Captioner
from finecap.engine.concurrency import event_loop
from finecap.engine.errors import StopRun
from finecap.engine.images import encoded
from finecap.engine.passes import Context

if TYPE_CHECKING:
    from finecap.engine.boxes import Options

Box = tuple[float, float, float, float]


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


def load_detector(options: Options, context: Context) -> Detector:
    """The detector that the boxes section of a recipe names, built once in a worker process. Call it before the event
    loop runs. A detector that lies in `context.models["detector"]` already is handed back: that is how tests and
    benchmarks hand in their own.

    Raises:
        StopRun: no detector in this folder, none behind this URL, no captioner of this name, torch or transformers is
            missing.
    """
    if "detector" in context.models:
        return context.models["detector"]
    if options.detector is not None:
        from finecap.engine.zero_shot import ZeroShotDetector

        folder, min_score = Path(options.detector), options.min_score
        return context.load("detector", lambda: ZeroShotDetector.from_folder(folder, min_score))
    if options.url is not None:
        from finecap.engine.served_detector import ServedDetector

        url, min_score, loop = options.url, options.min_score, event_loop(context)
        return context.load("detector", lambda: loop.run_until_complete(ServedDetector.open(url, min_score)))
    from finecap.engine.client import chat_client
    from finecap.engine.grounding import GroundingCaptioner

    captioner = _captioner(options.captioner, context)
    # Not kept: journal and counters are those of this shard.
    return GroundingCaptioner(chat_client(context), captioner, options.box_format, context.journal, context.counters)


def jpeg(image: Image.Image) -> bytes:
    """An RGB picture as it is sent to a detector elsewhere, all but lossless."""
    return encoded(image, "JPEG", quality=95, subsampling=0)


def _captioner(name: str | None, context: Context) -> Captioner:
    known = {captioner.name: captioner for captioner in context.recipe.captioners}
    if name not in known:
        raise StopRun(f"boxes.captioner: {name!r} is none of the recipe's captioners: {', '.join(known) or 'none'}")
    return known[name]
