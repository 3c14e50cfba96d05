"""Ids on the Hub and paths on this disk are told apart without asking the network."""

import pytest

from finecap.hub import is_hub_id


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("owner/name", True),
        ("Qwen/Qwen3-1.7B", True),
        ("outputs/demo", False),  # a folder
        ("outputs/demoo", False),  # mistyped
        ("outputss/demo", True),  # mistyped too, but nothing tells it from an id
        ("demo", False),
        ("./demo", False),
        ("../demo/corpus", False),
        ("a/b/c", False),
        ("/a/b", False),
        ("~/corpus", False),
        ("", False),
        ("s3://bucket/a", False),
    ],
)
def test_what_may_be_an_id(given, expected, tmp_path, monkeypatch):
    (tmp_path / "outputs" / "demo").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert is_hub_id(given) is expected
