"""Pass 9: words and lines with their boxes by PaddleOCR's models, in reading order.

rapidocr carries the models (PP-OCRv6 small) in its package and runs them with onnxruntime: nothing is downloaded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import pyarrow as pa
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from finecap.engine.contract import Context, Row
from finecap.engine.running.row_failures import RowFailures
from finecap.errors import StopRun
from finecap.pictures import ANY_SIZE, BadPicture, open_rgb

if TYPE_CHECKING:
    from finecap.engine.reading.reader import Line

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
    """How text is read.

    Attributes:
        min_score: lines read with less confidence are dropped and counted; PaddleOCR's `drop_score`.
        threads: of onnxruntime in each worker. One is the best for many workers, who then share the cores.
    """

    min_score: float = Field(default=0.5, ge=0, le=1)
    threads: int = Field(default=1, ge=1)


def run(rows: Iterator[Row], options: Options, context: Context) -> Iterable[Row]:
    """See the module. A picture on which the models fail is counted ("failed: TYPE") and gets no texts and no
    `ocr_engine`; it is not rejected, as the record is as good as one made without this pass.

    Raises:
        StopRun: rapidocr or onnxruntime is not installed.
        ManyRowsFailed: they fail on most pictures.
    """
    try:
        from finecap.engine.reading.reader import Reader
    except ImportError as error:
        raise StopRun(f"the ocr pass needs rapidocr and onnxruntime ({error}): install finevit[engine]") from error
    reader = context.load("ocr", lambda: Reader(options.threads))
    failures = RowFailures(context)
    for row in rows:
        result: Row = {"key": row["key"], "texts": [], "ocr_engine": None, "reject": None}
        try:
            lines = reader.read(open_rgb(row["image"], ANY_SIZE))
        except BadPicture as error:
            yield {**result, "texts": None, "reject": str(error)}
            continue
        except Exception as error:  # whatever onnxruntime and OpenCV raise on a picture that they cannot take
            failures.reason(row["key"], error)
            yield result
            continue
        failures.passed += 1
        yield {**result, "texts": as_texts(lines, options.min_score, context.counters), "ocr_engine": reader.name}
    failures.check()


def as_texts(lines: Iterable[Line], min_score: float, counters: Counter[str]) -> list[Row]:
    """The pass's column: each line, followed by its words. Words of spaces alone, which reading models give, and lines
    of no better are left out.
    """
    texts: list[Row] = []
    number = 0
    for line in lines:
        if line.whole.score < min_score:
            counters["lines dropped: low score"] += 1
            continue
        if not line.whole.text.strip():
            counters["lines dropped: empty"] += 1
            continue
        words = [word for word in line.words if word.text.strip()]
        pieces = [("line", line.whole), *(("word", word) for word in words)]
        texts += [{**piece._asdict(), "level": level, "line": number} for level, piece in pieces]
        number += 1
        counters["lines"] += 1
        counters["words"] += len(words)
    return texts
