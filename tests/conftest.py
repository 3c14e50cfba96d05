"""What tests of more than one room share."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def nano_corpus(tmp_path_factory) -> Path:
    """48 records of the embedded corpus at difficulty nano, twelve of each kind, in the Hub's layout."""
    import datasets

    from finecap.corpus.build import generate
    from finecap.records import FINECAP_FEATURES

    out = tmp_path_factory.mktemp("nano_corpus")
    rows = [
        generate(kind, index, 0, "train", "nano")
        for index in range(12)
        for kind in ("doc", "chart", "scene", "easyvqa")
    ]
    (out / "data").mkdir()
    records = datasets.Dataset.from_list(rows, features=FINECAP_FEATURES)
    records.to_parquet(str(out / "data" / "train-00000-of-00001.parquet"))
    return out
