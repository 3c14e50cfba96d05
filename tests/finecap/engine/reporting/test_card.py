"""The dataset's card: what the Hub reads of it, and data that is no markup."""

import re

from huggingface_hub import DatasetCard

from finecap.engine.reporting.templates import table_cell


def test_the_card_has_the_header_that_the_hub_reads(published):
    card = DatasetCard.load(published / "README.md")
    header = card.data.to_dict()
    assert header["license"] == "cc-by-4.0"
    assert header["size_categories"] == ["n<1K"]
    assert header["configs"][0]["data_files"] == [
        {"split": "test", "path": "data/test-*.parquet"},
        {"split": "train", "path": "data/train-*.parquet"},
    ]
    assert "object-detection" in header["task_categories"]
    assert "14 images came in; 10 became records" in card.text
    assert "| ingest | broken | 4 |" in card.text


def test_the_card_shows_no_markup_of_the_data_and_no_folder_of_the_machine(published):
    text = (published / "README.md").read_text()
    assert "script" in text
    assert "<script" not in text
    assert "m\\|1" in text
    assert "/models/" not in text
    for chart in re.findall(r"\]\((charts/[^)]+)\)", text):
        assert (published / chart).read_text().startswith("<svg")


def test_addresses_in_the_data_become_no_links_and_long_texts_are_cut():
    for address in ("https://x.org/a", "HTTP://x.org", "www.x.org", "ftp://x.org", "jane@x.org", "mailto:j@x.org"):
        shown = table_cell(f"see {address} there")
        assert not re.search(r"(https?|ftp)://|www\\?\.|\w@\w", shown, re.IGNORECASE), shown
        assert shown.replace("<!-- -->", "").replace("\\", "") == f"see {address} there"
    assert table_cell("plain text, 3:1 at w.x") == "plain text, 3:1 at w.x"
    assert len(table_cell("x" * 100_000)) == 200
