"""What the tests of asking captioners share."""

import pytest

from finecap import web as web_module


@pytest.fixture
def quick(monkeypatch):
    """Short waits between tries, where the test is not about them."""
    monkeypatch.setattr(web_module, "FIRST_WAIT", 0.01)
