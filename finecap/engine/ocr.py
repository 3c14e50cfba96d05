"""Pass 9: words and lines with their boxes by PaddleOCR's models, in reading order.

rapidocr carries the models (PP-OCRv6 small) in its package and runs them with onnxruntime: nothing is downloaded.
"""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from PIL import Image
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from finecap.engine.errors import StopRun
from finecap.engine.passes import Context, Row
from finecap.engine.reading_order import reading_order

COLUMNS = pa.schema(
    [
        (
            "texts",
            pa.list_(
                pa.struct(
                    [
                        ("bbox", pa.list_(pa.float32(), 4)),  # x1, y1, x2, y2 in pixels
                        ("level", pa.string()),  # "line" or "word"
                        ("text", pa.string()),
                        ("score", pa.float32()),
                        ("line", pa.int32()),  # number of the line in reading order; a word has that of its line
                    ]
                )
            ),
        ),
        ("ocr_engine", pa.string()),
    ]
)


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Options:
    """Attributes:
    min_score: lines read with less confidence are dropped and counted; PaddleOCR's `drop_score`.
    threads: of onnxruntime in each worker. One is the best for many workers, who then share the cores.
    """

    min_score: float = Field(default=0.5, ge=0, le=1)
    threads: int = Field(default=1, ge=1)


class Piece(NamedTuple):
    """A word or a line as it was read; the box in whole pixels, x2 and y2 exclusive, inside the picture."""

    bbox: tuple[int, int, int, int]
    text: str
    score: float


class Line(NamedTuple):
    """A line and its words, from left to right."""

    whole: Piece
    words: tuple[Piece, ...]


class Reader:
    """PaddleOCR's detection and recognition models in one process.

    Its third model, which turns lines that stand on their head, is left out: pictures are upright, and it turned about
    one long line of print in a hundred that stood right (measured in benchmarks/engine_quality.py).

    Attributes:
        name: package, version and models, for the record.
    """

    def __init__(self, threads: int = 1) -> None:
        """Load the models.

        Raises:
            StopRun: rapidocr or onnxruntime is not installed.
        """
        try:
            from rapidocr import RapidOCR
        except ImportError as error:
            raise StopRun(f"the ocr pass needs rapidocr and onnxruntime ({error}): install finevit[engine]") from error
        self._ocr = RapidOCR(
            params={
                "Global.log_level": "error",
                "Global.use_cls": False,
                "Global.text_score": 0.0,  # low scores are dropped, and counted, by the pass
                "EngineConfig.onnxruntime.intra_op_num_threads": threads,
                "EngineConfig.onnxruntime.inter_op_num_threads": 1,
            }
        )
        self.name = _name(self._ocr.cfg)

    def read(self, image: Image.Image) -> list[Line]:
        """The lines of a picture in reading order.

        Args:
            image: RGB, upright.
        """
        pixels = np.asarray(image)
        found: Any = self._ocr(np.ascontiguousarray(pixels[:, :, ::-1]), return_word_box=True)
        if found.boxes is None:
            return []
        lines = []
        words = _by_line(found.txts, found.word_results)
        for quad, text, score, parts in zip(found.boxes, found.txts, found.scores, words, strict=True):
            box = upright_box(quad, image.size)
            if box is None or not text.strip():
                continue
            boxes = [(upright_box(corners, image.size), word, sure) for word, sure, corners in parts]
            pieces = tuple(Piece(inner, word, float(sure)) for inner, word, sure in boxes if inner and word.strip())
            lines.append(Line(Piece(box, text.strip(), float(score)), pieces))
        return [lines[index] for index in reading_order([line.whole.bbox for line in lines])]


def run(rows: Iterator[Row], options: Options, context: Context) -> Iterable[Row]:
    """See the module. A picture on which the models fail is counted and gets no texts and no `ocr_engine`; it is not
    rejected, as the record is as good as one made without this pass.
    """
    reader = context.load("ocr", lambda: Reader(options.threads))
    for row in rows:
        result: Row = {"key": row["key"], "texts": [], "ocr_engine": None, "reject": None}
        image = Image.open(io.BytesIO(row["image"])).convert("RGB")
        try:
            lines = reader.read(image)
        except Exception as error:  # whatever onnxruntime and OpenCV raise on a picture that they cannot take
            context.counters[f"ocr failed: {type(error).__name__}"] += 1
            yield result
            continue
        yield {**result, "texts": as_texts(lines, options.min_score, context.counters), "ocr_engine": reader.name}


def as_texts(lines: Iterable[Line], min_score: float, counters: Counter[str]) -> list[Row]:
    """The pass's column: each line, followed by its words."""
    texts: list[Row] = []
    number = 0
    for line in lines:
        if line.whole.score < min_score:
            counters["lines dropped: low score"] += 1
            continue
        pieces = [("line", line.whole), *(("word", word) for word in line.words)]
        texts += [{**piece._asdict(), "level": level, "line": number} for level, piece in pieces]
        number += 1
        counters["lines"] += 1
        counters["words"] += len(line.words)
    return texts


def upright_box(quad: Any, size: tuple[int, int]) -> tuple[int, int, int, int] | None:
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


def _by_line(lines: Sequence[str], groups: Sequence[Any] | None) -> list[Sequence[Any]]:
    """The words of each line: rapidocr leaves out the group of a line for which it found none, and has none at all if
    it is unsure of the first.
    """
    waiting = [group for group in groups or () if group and len(group[0]) == 3]
    result: list[Sequence[Any]] = []
    for line in lines:
        letters = "".join(line.split())
        mine = bool(waiting) and "".join("".join(word.split()) for word, _, _ in waiting[0]) == letters
        result.append(waiting.pop(0) if mine else ())
    return result


def _name(config: Any) -> str:
    models = [
        f"{part.ocr_version.value} {part.model_type.value} {part.task_type.value}" for part in (config.Det, config.Rec)
    ]
    return f"rapidocr {version('rapidocr')}: {', '.join(models)}"
