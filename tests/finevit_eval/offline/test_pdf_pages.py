"""What a text layer says stands where the ink is: boxes hold all of a text's ink and no other."""

import io

import numpy as np
import pypdfium2
import pytest
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.figure import Figure

from finecap.pictures import open_rgb
from finecap.records import validate_record
from finevit_eval.offline import pdf_pages
from finevit_eval.offline.pdf_pages import SCALE, is_usable, lines_of, page_records, stands_alone

LINES = [
    "Seven brown foxes jumped",
    "across every lazy hound",
    "during their quiet afternoon",
    "although nobody watched them",
    "until winter finally came",
]
WIDTH, HEIGHT = 432, 288
"""Of a page, in points."""


def pdf(*texts, width=6, height=4):
    """A page of `(x, y, text)`: places as shares of the page from its bottom left corner."""
    figure = Figure((width, height))
    for x, y, text in texts:
        figure.text(x, y, text, fontsize=12)
    content = io.BytesIO()
    FigureCanvasPdf(figure).print_pdf(content)
    return content.getvalue()


@pytest.fixture(scope="module")
def page():
    """Five lines, and far to the right of the second one a number."""
    lines = [(0.1, 0.85 - 0.12 * number, line) for number, line in enumerate(LINES)]
    return pdf(*lines, (0.85, 0.73, "1234"))


def texts(lines):
    return [" ".join(word.text for word in line) for line in lines]


def pixels(content):
    return np.asarray(pypdfium2.PdfDocument(content)[0].render(scale=SCALE).to_pil().convert("L"))


def ink_of(grey, box):
    x1, y1, x2, y2 = (int(side) for side in box)
    rows, columns = np.nonzero(grey[y1:y2, x1:x2] < 128)
    return x1 + columns.min(), y1 + rows.min(), x1 + columns.max() + 1, y1 + rows.max() + 1


def test_words_and_lines_are_those_that_were_written(page):
    lines = texts(lines_of(pypdfium2.PdfDocument(page)[0]))
    assert sorted(lines) == sorted([*LINES, "1234"])


def test_boxes_are_the_ink(page):
    grey, seen = pixels(page), np.zeros((HEIGHT * 2, WIDTH * 2), bool)
    for line in lines_of(pypdfium2.PdfDocument(page)[0]):
        for word in line:
            assert ink_of(grey, word.box) == pytest.approx(word.box, abs=2)
            x1, y1, x2, y2 = word.box
            seen[y1:y2, x1:x2] = True
    assert grey.shape == seen.shape
    assert not (grey[~seen] < 250).any(), "ink outside of all boxes"


def test_on_a_page_that_was_moved_by_half_a_line_no_box_is_the_ink(page):
    """The control of the test above."""
    grey = np.roll(pixels(page), round(0.06 * HEIGHT * SCALE), axis=0)
    for word in (word for line in lines_of(pypdfium2.PdfDocument(page)[0]) for word in line):
        x1, y1, x2, y2 = word.box
        if (grey[y1:y2, x1:x2] < 128).any():
            assert ink_of(grey, word.box) != pytest.approx(word.box, abs=2)


def test_a_page_becomes_a_record_with_texts_that_stand_there_once(page):
    (record,) = page_records(page, "book")
    validate_record(record)
    assert (record["id"], record["width"], record["height"]) == ("book/1", 2 * WIDTH, 2 * HEIGHT)
    assert [region["label"] for region in record["regions"]] == ["line"] * 4 + ["word"] * 4
    whole = "\n".join(LINES).lower()
    assert all(whole.count(region["text"].lower()) == 1 for region in record["regions"])
    grey = np.asarray(open_rgb(record["image"]["bytes"], 10**7).convert("L"))
    for region in record["regions"]:
        assert ink_of(grey, region["bbox"]) == pytest.approx(region["bbox"], abs=2)


def test_pages_with_little_text_and_texts_that_come_twice_are_left_out():
    assert not list(page_records(pdf((0.1, 0.5, "Nothing much here")), "book"))
    twice = [(0.1, 0.9 - 0.1 * number, LINES[number % 2]) for number in range(8)]
    assert not list(page_records(pdf(*twice), "book"))


def test_what_a_font_calls_its_own_and_short_words_are_not_asked():
    assert is_usable("“quoted”,")
    assert not any(map(is_usable, ("in", "(1)", "abc\ufffe", "abc\x02", "abc\ue000")))


def test_a_word_beside_a_rule_is_not_asked(page):
    grey = pixels(page).copy()
    word = lines_of(pypdfium2.PdfDocument(page)[0])[0][1]
    assert stands_alone(word.box, grey)
    grey[word.box[3], word.box[0] - 2] = 0
    assert not stands_alone(word.box, grey)


def test_the_copy_among_the_manuals_is_left_out_and_few_pages_are_taken(page, publish, monkeypatch):
    names = ("R-intro.pdf", "refman.pdf", "fullrefman.pdf")
    package = publish({f"{pdf_pages.FOLDER}/{name}": page for name in names})
    monkeypatch.setattr(pdf_pages, "MANUALS", package)
    records = list(pdf_pages.manual_records())
    assert [record["id"] for record in records] == ["R-intro/1", "fullrefman/1"]
    assert {record["source"] for record in records} == {package.name}
