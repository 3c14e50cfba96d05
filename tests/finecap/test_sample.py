"""The committed sample of the caption engine: valid records, of sources that anybody may use, all on its page."""

import io
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from finecap.boxes import box_ious
from finecap.corpus.build import generate
from finecap.features import FINECAP_FEATURES
from finecap.records import validate_record

SAMPLE = Path(__file__).parents[2] / "finecap" / "sample"
PERMISSIVE = ("public domain", "CC0-1.0", "text: generated here", "values: generated here")


@pytest.fixture(scope="module")
def records():
    return pq.read_table(SAMPLE / "records.parquet").to_pylist()


def pixels(record):
    return Image.open(io.BytesIO(record["image"]["bytes"])).convert("RGB").tobytes()


@pytest.fixture(scope="module")
def charts():
    """The charts of the sample as the corpus knows them, in their order."""
    return [generate("chart", number, 11, "train", "nano") for number in range(24)]


def is_true(region, chart):
    """Is there a thing in the chart of which the corpus says these very words, where the region is?"""
    return any(
        known["caption"] == region["caption"] and box_ious(np.array(known["bbox"]), np.array(region["bbox"]))[0] >= 0.5
        for known in chart["regions"]
    )


def test_nothing_that_is_called_verified_contradicts_the_truth(records, charts):
    by_pixels = {pixels(chart): number for number, chart in enumerate(charts)}
    verified = [
        (record, region) for record in records for region in record["regions"] if region["verdict"] == "verified"
    ]
    pairs = [(region, by_pixels[pixels(record)]) for record, region in verified]
    assert len(pairs) >= 4
    assert [region for region, number in pairs if not is_true(region, charts[number])] == []
    # The same captions are not true of the next chart.
    assert not any(is_true(region, charts[(number + 1) % len(charts)]) for region, number in pairs)


def test_no_caption_that_was_refuted_is_shown(records):
    regions = [region for record in records for region in record["regions"]]
    assert any(region["verdict"] == "refuted" for region in regions)
    assert [region for region in regions if region["verdict"] == "refuted" and region["caption"]] == []


def test_the_card_says_how_many_captions_are_verified_and_refuted(records):
    verdicts = Counter(region["verdict"] for record in records for region in record["regions"])
    card = (SAMPLE / "README.md").read_text()
    verified, refuted = verdicts["verified"], verdicts["refuted"]
    assert f"marked verified: name, value, colour and box all right | {verified} | {verified} | 0 |" in card
    assert f"| captions of boxes refuted and left out | {refuted} |" in card


def test_the_records_are_valid_and_load_as_their_card_says(records, tmp_path):
    assert 40 <= len(records) <= 60
    assert len({record["id"] for record in records}) == len(records)
    for record in records:
        validate_record(record)
    loaded = datasets.load_dataset(
        "parquet", data_files=str(SAMPLE / "records.parquet"), split="train", cache_dir=str(tmp_path)
    )
    assert loaded.features == FINECAP_FEATURES


def test_every_source_is_permissive(records):
    assert [r["license"] for r in records if not r["license"].startswith(PERMISSIVE)] == []
    assert not any("CC-BY" in record["license"] for record in records)


def test_the_card_counts_what_is_there(records):
    sources = Counter(record["source"] for record in records)
    card = (SAMPLE / "README.md").read_text()
    assert f"{len(records)} records" in card
    for name, source in (
        ("documents and forms", "finevit-docs"),
        ("bar charts", "finevit-charts"),
        ("photographs", "scikit-image"),
    ):
        assert f"| {name} | {sources[source]} |" in card


def test_the_page_shows_them_all_and_needs_nothing_else(records):
    page = (SAMPLE / "gallery.html").read_text()
    assert all(record["id"] in page for record in records)
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    assert sum(path.stat().st_size for path in SAMPLE.iterdir()) < 3e6
