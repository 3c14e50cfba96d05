"""Pass 6: boxes of the phrases by an open-vocabulary detector (FineViT, step 4 of its data pipeline)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Self

import numpy as np
import pyarrow as pa
from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from finecap.boxes import BoxFormat, clip_box
from finecap.engine.captioners.ensemble import check_url
from finecap.engine.contract import Context, Row
from finecap.engine.detectors.detector import Detection, DetectionFailed
from finecap.engine.detectors.load import load_detector
from finecap.engine.detectors.nms import class_aware_nms
from finecap.engine.running.concurrency import in_decoder, map_rows, rejected
from finecap.pictures import ANY_SIZE, BadPicture, open_rgb

COLUMNS = pa.schema(
    [
        (
            "objects",
            pa.list_(
                pa.struct(
                    [
                        ("bbox", pa.list_(pa.float32(), 4)),  # x1, y1, x2, y2 in pixels
                        ("label", pa.string()),
                        ("phrase", pa.string()),
                        ("score", pa.float32()),
                    ]
                )
            ),
        ),
        ("detector", pa.string()),
    ]
)
# Thinner boxes have nothing to describe in them.
MIN_SIDE = 1.0


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Options:
    """Exactly one of `detector`, `url` and `captioner` says who looks for the boxes.

    Attributes:
        detector: folder of an AutoModelForZeroShotObjectDetection (Grounding DINO, OWLv2, ...). A `function`
            of your own in place of this pass may read it as it likes.
        url: of a served detector, for instance "http://gpu1:9000" (`finecap.engine.detectors.server`).
        captioner: name of one of the recipe's captioners that can ground phrases. Its boxes have no scores.
        box_format: how the captioner writes boxes. "thousandths" in JSON is Qwen3-VL's way, "pixels" in JSON
            Qwen2.5-VL's. "finevit" is in the words that FineViT-VL is trained with, one question for each phrase.
        min_score, nms_iou: FineViT.
        documents: look for objects in document-like pictures as well.
        in_flight: pictures at once.
    """

    detector: str | None = None
    url: str | None = None
    captioner: str | None = None
    box_format: BoxFormat = "thousandths"
    min_score: float = Field(default=0.3, ge=0, le=1)
    nms_iou: float = Field(default=0.7, ge=0, le=1)
    documents: bool = False
    in_flight: int = Field(default=8, ge=1)

    @model_validator(mode="after")
    def _one_detector(self) -> Self:
        given = [name for name in ("detector", "url", "captioner") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"name one of detector (a folder), url (of a served detector) and captioner, not {len(given)}"
            )
        if self.url is not None:
            check_url("boxes.url", self.url)
        return self

    @property
    def CAPTIONS(self) -> bool:
        """Do the recipe's captioners decide the output? See `Recipe.pass_key`."""
        return self.captioner is not None


def run(rows: Iterator[Row], options: Options, context: Context) -> Iterable[Row]:
    """See the module. A picture that the detector fails on is rejected: with no boxes it would pass for one that shows
    nothing, which the class counts and the dataset's statistics would then take for true.
    """
    detector = load_detector(options, context)

    async def one(row: Row) -> Row:
        result: Row = {"key": row["key"], "objects": [], "detector": None, "reject": None}
        phrases = row["phrases"] or []
        if not phrases or (row["branch"] == "document" and not options.documents):
            return result
        try:
            image = await in_decoder(context, open_rgb, row.pop("image"), ANY_SIZE)
            found = await detector.detect(image, [phrase["text"] for phrase in phrases])
        except (BadPicture, DetectionFailed) as error:
            return {**result, "objects": None, "reject": str(error)}
        objects = select(found, phrases, (row["width"], row["height"]), options, context.counters)
        return {**result, "objects": objects, "detector": detector.name}

    return map_rows(one, rows, options.in_flight, context, rejected)


def select(
    found: Iterable[Detection], phrases: list[Row], size: tuple[int, int], options: Options, counters: Counter[str]
) -> list[Row]:
    """The objects of a picture among what the detector found: boxes cut to the picture, without those of low score,
    those without area and, among boxes of one label, those that a better one covers.

    Args:
        found: indices refer to `phrases`.
        phrases: `text` and `label` each.
        size: width and height of the picture in pixels.

    Returns:
        As in COLUMNS, best first; objects without a score in the order in which they were found.
    """
    objects: list[Row] = []
    for detection in found:
        bbox = clip_box(detection.bbox, *size)
        if detection.score is not None and not detection.score >= options.min_score:  # nor is NaN
            counters["boxes dropped: low score"] += 1
        elif not all(side >= MIN_SIDE for side in (bbox[2] - bbox[0], bbox[3] - bbox[1])):
            counters["boxes dropped: empty"] += 1
        else:
            phrase = phrases[detection.phrase]
            objects.append(
                {
                    "bbox": list(bbox),
                    "label": phrase["label"],
                    "phrase": phrase["text"],
                    "score": detection.score,
                }
            )
    kept = class_aware_nms(
        np.array([item["bbox"] for item in objects]),
        [item["score"] or 0.0 for item in objects],
        [item["label"] for item in objects],
        options.nms_iou,
    )
    counters["boxes dropped: overlap"] += len(objects) - len(kept)
    counters["boxes"] += len(kept)
    return [objects[index] for index in kept]
