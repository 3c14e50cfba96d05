"""What ingest and filter kept and dropped, as one HTML page: counts, histograms with thresholds, a contact sheet."""

from __future__ import annotations

import base64
import hashlib
import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq

from finecap.engine.passes.filter import MEASURED_SIDE, Options
from finecap.engine.reporting.templates import render
from finecap.files import write_text
from finecap.pictures import ANY_SIZE, open_rgb, scaled_jpeg

TEMPLATE = "filter_report.html.jinja"
BINS = 60
SAMPLES = 12  # dropped pictures shown for each reason
THUMBNAIL_SIDE = 176
READ_ROWS = 4096


class Measure(NamedTuple):
    """A histogram of the page. `name`: column, or "short_side" and "aspect", which come from width and height; a
    logarithmic axis has no zero: what lies outside of `low` to `high` is counted in the outermost bars.
    """

    name: str
    title: str
    low: float
    high: float
    logarithmic: bool
    at_least: float | None
    at_most: float | None
    photos_only: bool


def write_filter_report(ingest_outputs: list[Path], filter_outputs: list[Path], options: Options, out: Path) -> None:
    """Write the page, in memory that does not grow with the collection.

    Args:
        ingest_outputs, filter_outputs: committed outputs, in the order of the shards.
        options: of the filter; its thresholds are drawn.
        out: HTML file; its pictures are inside.

    Raises:
        StopRun: `out` cannot be written.
    """
    found = _Found([Histogram(measure) for measure in _measures(options)])
    for shard, paths in enumerate(zip(ingest_outputs, filter_outputs, strict=True)):
        found.add_shard(shard, *paths)
    reasons = [
        {"kind": kind, "count": count, "stage": stage, "share": count / max(1, found.pictures)}
        for (stage, kind), count in found.rejects.most_common()
    ]
    text = render(
        TEMPLATE,
        pictures=found.pictures,
        kept=found.kept,
        reasons=reasons,
        histograms=[histogram.drawn() for histogram in found.histograms],
        sheets=_contact_sheets(found, ingest_outputs),
        measured_side=MEASURED_SIDE,
    )
    write_text(out, text)


def _measures(options: Options) -> list[Measure]:
    small = max(1, options.min_short_side)
    return [
        Measure("short_side", "short side, pixels", small / 16, small * 16, True, small, None, False),
        Measure("aspect", "width / height", 0.1, 10, True, options.min_aspect, options.max_aspect, True),
        Measure("sharpness", "variance of the Laplacian", 0.5, 20_000, True, options.min_sharpness, None, True),
        Measure("luminance", "mean luminance", 0, 1, False, options.min_luminance, options.max_luminance, True),
        Measure("dark", "share of clipped dark pixels", 0, 1, False, None, options.max_dark, True),
        Measure("bright", "share of clipped bright pixels", 0, 1, False, None, options.max_bright, True),
        Measure("saturation", "mean saturation", 0, 1, False, options.min_saturation or None, None, True),
    ]


class Histogram:
    """Counts of one measure in fixed bins, photographs and documents apart."""

    def __init__(self, measure: Measure) -> None:
        self.measure = measure
        self.counts = {"photo": np.zeros(BINS, dtype=np.int64), "document": np.zeros(BINS, dtype=np.int64)}

    def add(self, values: np.ndarray, branches: np.ndarray) -> None:
        for name, counts in self.counts.items():
            # Rejected rows have no branch, and no measures that could be placed.
            places = (self._place(values[branches == name]) * BINS).astype(np.int64)
            counts += np.bincount(np.clip(places, 0, BINS - 1), minlength=BINS)

    def _place(self, values: Any) -> Any:
        """Where on the axis, 0 to 1."""
        low, high = self.measure.low, self.measure.high
        if self.measure.logarithmic:
            values, low, high = np.log(np.maximum(values, 1e-9)), math.log(low), math.log(high)
        return (values - low) / (high - low)

    def drawn(self) -> dict[str, Any]:
        """What the page draws: bars as fractions of the highest, thresholds and ticks as places on the axis."""
        top = max(1, int((self.counts["photo"] + self.counts["document"]).max()))
        lines = [limit for limit in (self.measure.at_least, self.measure.at_most) if limit is not None]
        low, high = self.measure.low, self.measure.high
        middle = math.sqrt(low * high) if self.measure.logarithmic else (low + high) / 2
        return {
            "title": self.measure.title,
            "photos_only": self.measure.photos_only,
            "bars": [(photo / top, document / top) for photo, document in zip(*self.counts.values(), strict=True)],
            "at_least": None if self.measure.at_least is None else float(self._place(self.measure.at_least)),
            "at_most": None if self.measure.at_most is None else float(self._place(self.measure.at_most)),
            "lines": [(float(self._place(limit)), _figure(limit)) for limit in lines],
            "ticks": [_figure(value) for value in (low, middle, high)],
            "top": top,
        }


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


class Dropped(NamedTuple):
    """A dropped picture of the contact sheet; in the order of a hash of its key, so the sample is always the same."""

    rank: str
    shard: int
    row: int
    key: str
    reason: str


@dataclass
class _Found:
    """What one pass over the outputs gathers."""

    histograms: list[Histogram]
    pictures: int = 0
    kept: Counter[str] = field(default_factory=Counter)
    rejects: Counter[tuple[str, str]] = field(default_factory=Counter)
    dropped: dict[str, list[Dropped]] = field(default_factory=lambda: defaultdict(list))

    def add_shard(self, shard: int, ingested: Path, filtered: Path) -> None:
        names = [one.measure.name for one in self.histograms if one.measure.name not in ("short_side", "aspect")]
        at = 0
        for sizes, rows in zip(
            _batches(ingested, ["key", "reject", "width", "height"]),
            _batches(filtered, ["reject", "branch", *names]),
            strict=True,
        ):
            self._add_rows(shard, at, sizes, rows)
            at += len(sizes["key"])

    def _add_rows(self, shard: int, at: int, sizes: dict[str, np.ndarray], rows: dict[str, np.ndarray]) -> None:
        self.pictures += len(sizes["key"])
        for reason in sizes["reject"][sizes["reject"] != None]:  # noqa: E711
            self.rejects["ingest", reason.split(":")[0]] += 1
        seen = sizes["reject"] == None  # noqa: E711
        branches = rows["branch"][seen]
        width, height = (sizes[name][seen].astype(np.float64) for name in ("width", "height"))
        rows |= {"short_side": np.minimum(width, height), "aspect": width / height}
        for histogram in self.histograms:
            values = rows[histogram.measure.name]
            histogram.add((values if len(values) == len(branches) else values[seen]).astype(np.float64), branches)
        for row in np.flatnonzero(seen):
            reason = rows["reject"][row]
            if reason is None:
                self.kept[rows["branch"][row]] += 1
            else:
                self.rejects["filter", reason.split(":")[0]] += 1
                self._sample(shard, at + int(row), sizes["key"][row], reason)

    def _sample(self, shard: int, row: int, key: str, reason: str) -> None:
        rank = hashlib.sha256(key.encode()).hexdigest()
        kind = reason.split(":")[0]
        self.dropped[kind].append(Dropped(rank, shard, row, key, reason))
        if len(self.dropped[kind]) > 4 * SAMPLES:
            self.dropped[kind] = heapq.nsmallest(SAMPLES, self.dropped[kind])


def _batches(path: Path, columns: list[str]) -> Iterator[dict[str, np.ndarray]]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(READ_ROWS, columns=columns):
            yield {name: batch.column(name).to_numpy(zero_copy_only=False) for name in columns}


def _contact_sheets(found: _Found, ingest_outputs: list[Path]) -> list[dict[str, Any]]:
    chosen = {kind: heapq.nsmallest(SAMPLES, dropped) for kind, dropped in found.dropped.items()}
    wanted: dict[int, set[int]] = defaultdict(set)
    for one in (one for dropped in chosen.values() for one in dropped):
        wanted[one.shard].add(one.row)
    thumbnails = {
        (shard, row): base64.b64encode(scaled_jpeg(open_rgb(data, ANY_SIZE), THUMBNAIL_SIDE, quality=80)).decode()
        for shard, rows in wanted.items()
        for row, data in _images(ingest_outputs[shard], rows)
    }
    return [
        {
            "kind": kind,
            "count": found.rejects["filter", kind],
            "pictures": [(one.key, one.reason, thumbnails[one.shard, one.row]) for one in dropped],
        }
        for kind, dropped in sorted(chosen.items(), key=lambda item: -found.rejects["filter", item[0]])
    ]


def _images(path: Path, rows: set[int]) -> Iterator[tuple[int, bytes]]:
    at = 0
    with pq.ParquetFile(path, pre_buffer=False, buffer_size=2**20) as file:
        for batch in file.iter_batches(32, columns=["image"]):
            for row in sorted(rows & set(range(at, at + len(batch)))):
                yield row, batch.column("image")[row - at].as_py()
            at += len(batch)
