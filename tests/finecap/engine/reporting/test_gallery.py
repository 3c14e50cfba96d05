"""The page says in words what became of every caption."""

import pytest
from PIL import Image

from finecap.engine.reporting.gallery import write_gallery
from finecap.pictures import encoded


def page_with(tmp_path, verdict, caption):
    region = {"bbox": [5, 5, 50, 40], "kind": "object", "label": "bar", "text": None, "score": 0.5}
    record = {
        **{"id": "a", "width": 100, "height": 80, "source": "s", "license": "l", "split": "train"},
        **{"global_caption": None, "captioner": None, "captions": [], "qa": [], "provenance": None},
        "image": {"bytes": encoded(Image.new("RGB", (100, 80), "white"), "PNG"), "path": None},
        "regions": [{**region, "caption": caption, "verdict": verdict}],
    }
    write_gallery([record], tmp_path / "page.html", "title", "note")
    return (tmp_path / "page.html").read_text().split("<article>")[1]


@pytest.mark.parametrize(
    ("verdict", "caption", "words"),
    [
        ("verified", "the red bar", ">verified<"),
        ("self-consistent", "the red bar", ">self-consistent<"),
        ("refuted", None, ">caption refuted<"),
        (None, "the red bar", ">not checked<"),
    ],
)
def test_each_verdict_is_a_word_and_no_other_one_is_said(tmp_path, verdict, caption, words):
    page = page_with(tmp_path, verdict, caption)

    every = (">verified<", ">self-consistent<", ">caption refuted<", ">not checked<")
    assert [word for word in every if word in page] == [words]
