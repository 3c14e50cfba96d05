"""The committed sample of the caption engine: valid records, of sources that anybody may use, all on its page."""

from collections import Counter
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest

from finecap.features import FINECAP_FEATURES
from finecap.records import validate_record

SAMPLE = Path(__file__).parents[2] / "finecap" / "sample"
PERMISSIVE = ("public domain", "CC0-1.0", "text: generated here", "values: generated here")


@pytest.fixture(scope="module")
def records():
    return pq.read_table(SAMPLE / "records.parquet").to_pylist()


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
    for name, source in (("forms", "finevit-docs"), ("bar charts", "finevit-charts"), ("photographs", "scikit-image")):
        assert f"| {name} | {sources[source]} |" in card


def test_the_page_shows_them_all_and_needs_nothing_else(records):
    page = (SAMPLE / "gallery.html").read_text()
    assert all(record["id"] in page for record in records)
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    assert sum(path.stat().st_size for path in SAMPLE.iterdir()) < 3e6
