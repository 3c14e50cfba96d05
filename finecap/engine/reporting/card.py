"""The dataset card: what is in the dataset, counted, and how it was made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from finecap.engine.recipe import OPERATIONAL, mapping_of
from finecap.engine.reporting.templates import render, shortened
from finecap.engine.running.one_shard import Run
from finecap.files import write_text
from finecap.made_with import package_versions
from finecap.recipe_files import without_folders
from finecap.shards.layout import split_pattern

# Identifiers of the Hub's list; whatever else the records say becomes "other", and the card lists it.
HUB_LICENSES = {
    *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "unlicense", "gpl-3.0", "gfdl", "ofl-1.1", "pddl", "odbl"),
    *("cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-nd-4.0"),
    *("cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0"),
}
SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
LARGER = ((10**8, "10M<n<100M"), (10**9, "100M<n<1B"), (10**10, "1B<n<10B"), (10**11, "10B<n<100B"))
PACKAGES = ("finevit", "pyarrow", "pillow", "rapidocr", "onnxruntime", "spacy", "transformers", "torch")
CHARTS = {
    "aspect": "aspect, width / height",
    "short_side": "short side, pixels",
    "global_caption": "global caption, words",
    "local_caption": "local caption, words",
    "regions": "regions of a record",
    "box_side": "side of an object's box, share of the picture",
}
# Pixels of a chart: its size, and the margins in which its numbers stand.
CHART = {"width": 640, "height": 240, "left": 56, "right": 16, "top": 34, "bottom": 40}


def write_card(run: Run, stats: Mapping[str, Any], folder: Path) -> None:
    """Write README.md, with the header that the Hub reads, and the charts it shows.

    Args:
        stats: of `dataset_stats`, and `images` of `publish.image_stats`.
        folder: the dataset's.
    """
    charts = {}
    for name, distribution in CHARTS.items():
        if stats["distributions"][distribution]:
            charts[name] = distribution
            chart = chart_svg(distribution, stats["distributions"][distribution])
            write_text(folder / "charts" / f"{name}.svg", chart)
    text = render(
        "card.md.jinja",
        header=yaml.safe_dump(_header(run, stats), sort_keys=False, allow_unicode=True),
        name=_name(run),
        stats=stats,
        totals=_totals(stats),
        charts=charts,
        recipe=yaml.safe_dump(without_folders(_public(mapping_of(run.recipe))), sort_keys=False, allow_unicode=True),
        recipe_hash=run.recipe.pass_key("pack"),
        versions={name: number for name, number in package_versions(PACKAGES).items() if number},
    )
    write_text(folder / "README.md", text)


def _name(run: Run) -> str:
    return f"FineCap records of {shortened(run.recipe.passes['ingest'].source)}"


def _header(run: Run, stats: Mapping[str, Any]) -> dict[str, Any]:
    """The card's metadata; see the Hub's dataset card specification."""
    licenses = sorted({name.lower() if name.lower() in HUB_LICENSES else "other" for name in stats["licenses"]})
    kinds = {row["kind"] for row in stats["regions"]}
    tasks = ["image-to-text", "image-text-to-text"] + ["object-detection"] * ("object" in kinds)
    records = _totals(stats)["records"]
    files = [{"split": split, "path": split_pattern(split)} for split in stats["splits"]]
    return {
        "pretty_name": _name(run),
        "license": licenses[0] if len(licenses) == 1 else licenses or ["other"],
        "task_categories": tasks,
        "size_categories": [next(name for limit, name in SIZES + LARGER if records < limit)],
        "tags": ["finecap", "recaptioned", "grounding", "ocr"],
        "configs": [{"config_name": "default", "data_files": files}] if files else [],
    }


def _totals(stats: Mapping[str, Any]) -> dict[str, int]:
    names = ("records", "global_captions", "captions", "regions", "local_captions")
    return {name: sum(split[name] for split in stats["splits"].values()) for name in names}


def _public(value: Any) -> Any:
    """The recipe without the operational fields, such as addresses, which say where it ran."""
    if isinstance(value, Mapping):
        return {key: _public(item) for key, item in value.items() if key not in OPERATIONAL}
    return [_public(item) for item in value] if isinstance(value, list) else value


def chart_svg(title: str, distribution: Mapping[str, Any]) -> str:
    """A histogram as SVG on its own white ground, readable on light and dark pages."""
    bins = distribution["bins"]
    most = max(count for _, _, count in bins)
    width = (CHART["width"] - CHART["left"] - CHART["right"]) / len(bins)
    height = CHART["height"] - CHART["top"] - CHART["bottom"]
    bars = [
        {
            "x": round(CHART["left"] + number * width, 2),
            "y": round(CHART["top"] + height * (1 - count / most), 2),
            "height": round(height * count / most, 2),
            "start": start,
            "stop": stop,
            "count": count,
        }
        for number, (start, stop, count) in enumerate(bins)
    ]
    every = -(-len(bins) // 8)
    return render(
        "chart.svg.jinja",
        title=title,
        bars=bars,
        bar_width=round(width, 2),
        most=most,
        every=every,
        overflow=bins[-1][0] if distribution["max"] == bins[-1][1] and len(bins) > 1 else None,
        about=distribution,
        chart=CHART,
    )
