"""What tests of sources share."""

import pytest

from tests.support.sources import PICTURES


@pytest.fixture
def folder(tmp_path):
    """Six pictures in two folders: 0/0.png to 0/2.png, and 1/3.png to 1/5.png."""
    for number, data in enumerate(PICTURES):
        path = tmp_path / "pictures" / f"{number // 3}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "pictures"
