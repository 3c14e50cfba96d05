"""The gallery page: data as text, pictures as the models saw them, and a word for each verdict."""

import base64
import io
import re
from collections import Counter
from html.parser import HTMLParser

import pytest
from PIL import Image

from finecap.engine.passes.pack import COLUMNS
from finecap.engine.reporting.gallery import write_gallery
from finecap.pictures import encoded
from tests.support.packed_run import EVIL, HEIGHT, WIDTH, picture


class Page(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.texts = Counter(), [], []

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.attributes += attrs

    def handle_data(self, data):
        self.texts.append(data)


def test_the_gallery_shows_data_as_text_and_asks_for_nothing_else(published):
    page = Page()
    page.feed((published / "gallery.html").read_text())
    assert page.tags["article"] == 10
    assert set(page.tags) & {"script", "img", "iframe", "link", "object"} == set()
    assert {name for name, _ in page.attributes if name.startswith("on")} == set()
    links = [value for name, value in page.attributes if name in ("href", "src")]
    assert len(links) == 10
    assert all(link.startswith("data:image/jpeg;base64,") for link in links)
    assert sum(EVIL in text for text in page.texts) >= 10


def test_a_gallery_is_made_of_generated_records_too(tmp_path):
    record = {
        **dict.fromkeys(COLUMNS.names),
        "id": "easy/1",
        "image": {"bytes": picture("1"), "path": None},
        "width": WIDTH,
        "height": HEIGHT,
        "regions": [],
        "qa": [{"question": "What is <b>it</b>?", "answers": ["noise"], "kind": "vqa"}],
    }
    write_gallery(iter([record]), tmp_path / "page.html", "Records", "from & for nobody")
    page = (tmp_path / "page.html").read_text()
    assert "What is &lt;b&gt;it&lt;/b&gt;?" in page
    assert "from &amp; for nobody" in page


def test_the_gallery_shows_pictures_as_the_models_saw_them(tmp_path):
    content = io.BytesIO()
    Image.new("RGBA", (900, 600), (0, 0, 0, 0)).save(content, "PNG")
    record = {**dict.fromkeys(COLUMNS.names), "id": "clear", "image": {"bytes": content.getvalue()}}
    write_gallery([{**record, "width": 900, "height": 600}], tmp_path / "page.html", "Records", "")
    page = (tmp_path / "page.html").read_text()
    (shown,) = re.findall(r'href="data:image/jpeg;base64,([^"]+)"', page)
    image = Image.open(io.BytesIO(base64.b64decode(shown)))
    assert image.size == (640, 427)
    assert image.getextrema() == ((255, 255),) * 3


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
