"""What tests of more than one room share."""

from pathlib import Path

import pytest
from PIL import ImageFile


@pytest.fixture(autouse=True)
def _truncated_pictures_are_errors(monkeypatch):
    """Pillow's own default; importing lmms-eval, as some tests of a process do, turns it off for the whole process."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", False)


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
