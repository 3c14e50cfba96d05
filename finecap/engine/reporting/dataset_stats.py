"""Figures over all records of a dataset: what the card shows and `stats.json` keeps.

DuckDB copies all columns but the pictures into a table on the disk and works there, so memory and open files stay
bounded whatever the number of records and files. Lengths are counted in words between white space, which no tokenizer
decides.
"""

from __future__ import annotations

import glob
import math
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finecap.records import TEXT_KINDS
from finecap.verdicts import VERDICTS

if TYPE_CHECKING:
    import duckdb

# The most different values of a column that the figures name one by one; there are as many sources as somebody's input
# says.
LISTED = 200
BINS = 24
HEAD, TAIL = 30, 30
MEMORY = "1GB"
FILES_AT_ONCE = 64
# Most captions have single spaces alone; counting those is eight times as fast as matching words.
WORDS = r"""CREATE MACRO words(x) AS CASE WHEN x = '' OR regexp_matches(x, '\s\s|[\t\n\f\r]|^\s|\s$')
THEN len(regexp_extract_all(x, '\S+')) ELSE 1 + length(x) - length(replace(x, ' ', '')) END"""
REGIONS = "(SELECT unnest(regions) AS r, width, height FROM records)"
CAPTIONS = "(SELECT unnest(captions) AS c FROM records)"
# name: (what is measured, over what); whole numbers or few decimals, so that equal values can be counted
DISTRIBUTIONS = {
    "aspect, width / height": ("round(width / height, 2)", "records"),
    "short side, pixels": ("least(width, height)", "records"),
    "global caption, words": ("words(global_caption)", "records WHERE global_caption IS NOT NULL"),
    "local caption, words": ("words(r.caption)", f"{REGIONS} WHERE r.caption IS NOT NULL"),
    "text of a line, words": (
        "words(r.text)",
        f"{REGIONS} WHERE r.kind IN {TEXT_KINDS} AND r.label = 'line'",
    ),
    "regions of a record": ("coalesce(len(regions), 0)", "records"),
    "side of an object's box, share of the picture": (
        "round(sqrt((r.bbox[3] - r.bbox[1]) * (r.bbox[4] - r.bbox[2]) / (width * height)), 2)",
        f"{REGIONS} WHERE r.kind = 'object'",
    ),
}


def dataset_stats(files: Sequence[Path], scratch: Path) -> dict[str, Any]:
    """Figures of all records in parquet files.

    Args:
        files: with the columns of a FineCap record; at least one.
        scratch: folder for the table, empty or not there yet; the caller removes it.

    Returns:
        Plain values, fit for JSON: `splits`, `sources`, `licenses`, `captioners`, `caption_styles`, `regions`,
        `categories`, `checks`, `flags`, `distributions`.
    """
    import duckdb

    scratch.mkdir(parents=True, exist_ok=True)
    settings: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": MEMORY,
        "temp_directory": str(scratch),
        "threads": 1,
    }
    with duckdb.connect(scratch / "records.duckdb", config=settings) as base:
        base.execute(WORDS)
        # A scan keeps every file of it open, and there may be more than a process may open.
        for start in range(0, len(files), FILES_AT_ONCE):
            part = [glob.escape(str(path)) for path in files[start : start + FILES_AT_ONCE]]
            do = "INSERT INTO records" if start else "CREATE TABLE records AS"
            base.execute(f"{do} SELECT * EXCLUDE (image) FROM read_parquet($1)", [part])
        return {
            "splits": _splits(base),
            **{f"{name}s": _tally(base, f"SELECT {name} FROM records") for name in ("source", "license")},
            "captioners": _tally(base, "SELECT captioner FROM records WHERE global_caption IS NOT NULL"),
            "caption_styles": _tally(base, f"SELECT concat_ws(' by ', c.style, c.captioner) FROM {CAPTIONS}"),
            "regions": _region_kinds(base),
            "categories": _categories(base),
            "checks": _tally(base, _kinds_of("provenance.checks")),
            "flags": _tally(base, _kinds_of("provenance.flags")),
            "made_by": {
                name: _tally(base, f"SELECT provenance.{name} FROM records") for name in ("phrases", "boxes", "ocr")
            },
            "distributions": {name: _distribution(base, *what) for name, what in DISTRIBUTIONS.items()},
        }


def _rows(base: duckdb.DuckDBPyConnection, query: str) -> list[tuple[Any, ...]]:
    return base.execute(query).fetchall()


def _splits(base: duckdb.DuckDBPyConnection) -> dict[str, dict[str, int]]:
    names = ("records", "global_captions", "captions", "regions", "local_captions")
    found = _rows(
        base,
        """SELECT split, count(*), count(global_caption), coalesce(sum(len(captions)), 0),
        coalesce(sum(len(regions)), 0), coalesce(sum(len(list_filter(regions, lambda r: r.caption IS NOT NULL))), 0)
        FROM records GROUP BY split ORDER BY split""",
    )
    return {split: dict(zip(names, map(int, counts), strict=True)) for split, *counts in found}


def _tally(base: duckdb.DuckDBPyConnection, query: str) -> dict[str, int]:
    """How often each value occurs, most frequent first; the rest beyond LISTED as one."""
    found = _rows(
        base,
        f"SELECT value, count(*) AS n FROM ({query}) AS t(value) WHERE value IS NOT NULL GROUP BY value "
        f"ORDER BY n DESC, value",
    )
    tally = dict(found[:LISTED])
    if len(found) > LISTED:
        tally[f"(others, {len(found) - LISTED} different)"] = sum(count for _, count in found[LISTED:])
    return tally


def _kinds_of(notes: str) -> str:
    """Query of notes without what is particular to one picture: quotes, and words with digits."""
    note = f"unnest({notes})"
    return (
        rf"""SELECT regexp_replace(regexp_replace({note}, '"[^"]*"', '…', 'g'), '\S*\d\S*', '…', 'g') FROM records"""
    )


def _region_kinds(base: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    names = ("kind", "level", "regions", "captions", "texts", *(verdict.replace("-", "_") for verdict in VERDICTS))
    found = _rows(
        base,
        f"""SELECT r.kind, CASE WHEN r.kind = 'object' THEN '' ELSE r.label END AS level, count(*), count(r.caption),
        count(r.text), {", ".join(f"count(*) FILTER (WHERE r.verdict = '{verdict}')" for verdict in VERDICTS)}
        FROM {REGIONS} GROUP BY ALL ORDER BY 1, 2""",
    )
    return [dict(zip(names, row, strict=True)) for row in found]


def _categories(base: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    """Class names of objects: the most frequent ones, some of the rarest, and how many there are of what frequency."""
    base.execute(
        f"CREATE OR REPLACE TEMP TABLE categories AS SELECT r.label AS label, count(*) AS n FROM {REGIONS} "
        "WHERE r.kind = 'object' GROUP BY label"
    )
    bands = _rows(
        base, "SELECT floor(log10(n))::INT AS b, count(*), sum(n)::BIGINT FROM categories GROUP BY b ORDER BY b"
    )
    return {
        "different": sum(count for _, count, _ in bands),
        "by_frequency": [
            {"from": 10**band, "below": 10 ** (band + 1), "categories": count, "boxes": boxes}
            for band, count, boxes in bands
        ],
        "head": dict(_rows(base, f"SELECT label, n FROM categories ORDER BY n DESC, label LIMIT {HEAD}")),
        "tail": dict(_rows(base, f"SELECT label, n FROM categories ORDER BY n, md5(label) LIMIT {TAIL}")),
    }


def _distribution(base: duckdb.DuckDBPyConnection, value: str, source: str) -> dict[str, Any] | None:
    found = _rows(base, f"SELECT {value} AS v, count(*) FROM {source} GROUP BY v ORDER BY v")
    return summarise_counts(found) if found else None


def summarise_counts(counted: Sequence[tuple[float, int]]) -> dict[str, Any]:
    """Mean, quantiles and a histogram of counted values.

    Args:
        counted: (value, how often), rising, at least one.

    Returns:
        `count`, `mean`, `min`, `p10`, `p50`, `p90`, `max`, and `bins`: [from, below, how many] of equal width up to
        the 99th percentile and one for what lies above it.
    """
    total = sum(count for _, count in counted)

    def quantile(share: float) -> float:
        seen = accumulate(count for _, count in counted)
        return next(value for (value, _), below in zip(counted, seen, strict=True) if below >= share * total)

    return {
        "count": total,
        "mean": round(sum(value * count for value, count in counted) / total, 3),
        "min": counted[0][0],
        **{f"p{round(100 * share)}": quantile(share) for share in (0.1, 0.5, 0.9)},
        "max": counted[-1][0],
        "bins": _bins(counted, quantile(0.99)),
    }


def _bins(counted: Sequence[tuple[float, int]], last: float) -> list[list[float]]:
    """Bins as `summarise_counts` returns them; their edges are round numbers."""
    step = _round_step((last - counted[0][0]) / BINS)
    histogram: dict[int, int] = {}
    above = 0
    for value, count in counted:
        if value > last:
            above += count
        else:
            number = math.floor(value / step + 1e-9)
            histogram[number] = histogram.get(number, 0) + count
    edges = range(min(histogram), max(histogram) + 1)
    bins = [[round(n * step, 6), round((n + 1) * step, 6), histogram.get(n, 0)] for n in edges]
    return [*bins, [bins[-1][1], counted[-1][0], above]] if above else bins


def _round_step(width: float) -> float:
    """1, 2 or 5 times a power of ten, at least `width`; 1 if that is nothing."""
    if width <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(width))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= width * (1 - 1e-9))
