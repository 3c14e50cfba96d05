"""PaddleOCR's models (PP-OCRv6 small, which rapidocr carries in its package) on one picture.

Two things are added to rapidocr. Its model for lines that stand on their head is left out, because it also turns long
lines that stand right (benchmarks/engine/quality.py compares the two): a line that was read with little confidence is
turned and read again instead, and the better reading counts. And boxes are drawn tight around the ink, as those of the
embedded corpus are: rapidocr's lie some pixels outside, and its words are cut out of a line by counting letters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image
from rapidocr import RapidOCR

from finecap.engine.reading.ink import Box, ink_mask, is_likely, tight, words_in_ink
from finecap.engine.reading.reading_order import reading_order

# Lines that are read with less confidence are tried the other way up.
DOUBTFUL = 0.9


class Piece(NamedTuple):
    """A word or a line as it was read; the box in whole pixels, x2 and y2 exclusive, inside the picture."""

    bbox: Box
    text: str
    score: float


class Line(NamedTuple):
    """A line and its words, from left to right."""

    whole: Piece
    words: tuple[Piece, ...]


class Reader:
    """The models in one process.

    Attributes:
        name: package, version and models, for the record.
    """

    def __init__(self, threads: int = 1) -> None:
        """Load the models.

        Args:
            threads: of onnxruntime and OpenCV, which has but one number for the whole process.
        """
        cv2.setNumThreads(threads)
        self._ocr = _BothWaysUp(
            params={
                "Global.log_level": "error",
                "Global.use_cls": False,
                "Global.text_score": 0.0,  # low scores are dropped, and counted, by the pass
                "EngineConfig.onnxruntime.intra_op_num_threads": threads,
                "EngineConfig.onnxruntime.inter_op_num_threads": 1,
            }
        )
        parts = (self._ocr.cfg.Det, self._ocr.cfg.Rec)
        models = [f"{part.ocr_version.value} {part.model_type.value} {part.task_type.value}" for part in parts]
        self.name = f"rapidocr {version('rapidocr')}: {', '.join(models)}"

    def read(self, image: Image.Image) -> list[Line]:
        """The lines of a picture in reading order.

        Args:
            image: RGB, upright.
        """
        pixels = np.ascontiguousarray(np.asarray(image)[:, :, ::-1])
        found: Any = self._ocr(pixels, return_word_box=True)
        if found.boxes is None:
            return []
        groups = words_of_lines(found.txts, found.word_results)
        lines = [
            line
            for quad, text, score, words in zip(found.boxes, found.txts, found.scores, groups, strict=True)
            if (line := _line(pixels, quad, text.strip(), float(score), words))
        ]
        return [lines[index] for index in reading_order([line.whole.bbox for line in lines])]


class _BothWaysUp(RapidOCR):
    """Reads doubtful lines the other way up too."""

    def run_ocr_steps(self, img: np.ndarray, op_record: dict[str, Any]) -> tuple[Any, Any, Any, list[np.ndarray]]:
        boxes, turns, read, crops = super().run_ocr_steps(img, op_record)
        doubtful = [index for index, score in enumerate(read.scores) if score < DOUBTFUL] if read.txts else []
        if doubtful:
            again = self.recognize_txt([np.ascontiguousarray(np.rot90(crops[index], 2)) for index in doubtful])
            better = {index: other for other, index in enumerate(doubtful) if again.scores[other] > read.scores[index]}
            for field in ("txts", "scores", "word_results"):
                values = list(getattr(read, field))
                for index, other in better.items():
                    values[index] = getattr(again, field)[other]
                setattr(read, field, tuple(values))
            for index in better:
                # The first corner is where the line begins: rapidocr finds the words from there.
                boxes.boxes[index] = np.roll(boxes.boxes[index], 2, axis=0)
                crops[index] = np.rot90(crops[index], 2)
        return boxes, turns, read, crops


def _line(pixels: np.ndarray, quad: np.ndarray, text: str, score: float, words: Sequence[Any]) -> Line | None:
    size = (pixels.shape[1], pixels.shape[0])
    box = upright_box(quad, size)
    if box is None or not text:
        return None
    ink = ink_mask(pixels[box[1] : box[3], box[0] : box[2]], quad - np.array(box[:2]))
    whole = tight(ink, box)
    loose = [upright_box(corners, size) for _, _, corners in words]
    boxes = [corners for corners in loose if corners]
    if not is_likely(whole, box):
        whole = box
    else:
        boxes = words_in_ink(ink, box, boxes)
    pieces = (Piece(inner, word, float(sure)) for inner, (word, sure, _) in zip(boxes, words, strict=False))
    return Line(Piece(whole, text, score), tuple(pieces) if len(boxes) == len(words) else ())


def upright_box(quad: Any, size: tuple[int, int]) -> Box | None:
    """The smallest upright box around four corners, cut to the picture.

    Args:
        quad: (4, 2) corners x, y in pixels.
        size: width and height of the picture.

    Returns:
        None if nothing of it lies inside.
    """
    corners = np.asarray(quad, np.float64)
    x1, y1 = (max(0, math.floor(value)) for value in corners.min(axis=0))
    x2, y2 = (min(limit, math.ceil(value)) for value, limit in zip(corners.max(axis=0), size, strict=True))
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None


def words_of_lines(lines: Sequence[str], groups: Sequence[Any] | None) -> list[Sequence[Any]]:
    """The words of each line: rapidocr leaves out the group of a line in which it found none.

    Args:
        lines: their texts.
        groups: words (text, score, corners) of those lines that have any, in the same order.
    """
    waiting = list(groups or ())
    result: list[Sequence[Any]] = []
    for line in lines:
        mine = bool(waiting) and _letters("".join(word for word, _, _ in waiting[0])) == _letters(line)
        result.append(waiting.pop(0) if mine else ())
    return result


def _letters(text: str) -> str:
    return "".join(text.split())
