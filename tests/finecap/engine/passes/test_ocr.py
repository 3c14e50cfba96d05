"""Words and lines of real pictures, read by the models that rapidocr ships, with boxes tight around the ink."""

from collections import Counter

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from PIL import Image, ImageDraw, ImageFont

from finecap.boxes import box_ious
from finecap.engine.contract import Context
from finecap.engine.passes import ocr
from finecap.engine.reading.ink import ink_mask, is_likely, tight, words_in_ink
from finecap.engine.reading.reader import Line, Piece, Reader, upright_box, words_of_lines
from finecap.engine.running.row_failures import ALL_ALIKE, ManyRowsFailed
from finecap.pictures import encoded

TEXT = ["Sports Centre", "Open 9.30 daily", "KH-5203"]


def draw_lines(texts, size=(240, 180), ink="black", paper="white"):
    """A picture and the exact box of each of its words, by line."""
    image = Image.new("RGB", size, paper)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(20)
    truth = []
    for number, text in enumerate(texts):
        x, y, words = 20, 15 + 45 * number, []
        for word in text.split():
            blank = Image.new("L", size)
            ImageDraw.Draw(blank).text((x, y), word, fill=255, font=font)
            draw.text((x, y), word, fill=ink, font=font)
            words.append(blank.point(lambda value: 255 * (value > 100)).getbbox())
            x += round(font.getlength(word + " "))
        truth.append(words)
    return image, truth


@pytest.fixture(scope="module")
def reader():
    return Reader()


@pytest.fixture
def context(tmp_path, reader):
    return Context("s", None, None, None, tmp_path, {"ocr": reader})


@pytest.mark.parametrize(("ink", "paper"), [("black", "white"), ("yellow", "navy")])
def test_words_and_lines_are_read_with_tight_boxes(reader, ink, paper):
    image, truth = draw_lines(TEXT, ink=ink, paper=paper)

    lines = reader.read(image)

    assert [line.whole.text for line in lines] == TEXT
    assert [[word.text for word in line.words] for line in lines] == [text.split() for text in TEXT]
    for line, words in zip(lines, truth, strict=True):
        whole = (words[0][0], min(w[1] for w in words), words[-1][2], max(w[3] for w in words))
        assert box_ious(np.array(line.whole.bbox), np.array(whole)) > 0.85
        for word, box in zip(line.words, words, strict=True):
            assert box_ious(np.array(word.bbox), np.array(box)) > 0.85


def test_other_words_give_another_text(reader):
    image, _ = draw_lines(["Sports Center", "Closed on Monday", "KH-5208"])

    assert not {line.whole.text for line in reader.read(image)} & set(TEXT)


def test_ruled_lines_beside_a_text_do_not_widen_its_box(reader):
    image, truth = draw_lines(["Item"])
    box = truth[0][0]
    draw = ImageDraw.Draw(image)
    draw.rectangle((10, box[1] - 7, 200, box[1] - 6), fill="black")
    draw.rectangle((10, box[3] + 5, 200, box[3] + 6), fill="black")

    (line,) = reader.read(image)

    assert box_ious(np.array(line.whole.bbox), np.array(box)) > 0.85


@pytest.mark.parametrize("turn", [Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270])
def test_a_line_is_read_whichever_way_up_it_stands(reader, turn):
    image, _ = draw_lines(["Sports Centre open"], size=(240, 200))

    (line,) = reader.read(image.transpose(turn))

    assert line.whole.text == "Sports Centre open"
    assert [word.text for word in line.words] == ["Sports", "Centre", "open"]


def test_words_of_a_line_on_its_head_lie_where_they_stand(reader):
    image, (truth,) = draw_lines(["Sports Centre open"], size=(240, 200))

    (line,) = reader.read(image.transpose(Image.Transpose.ROTATE_180))

    for word, (x1, y1, x2, y2) in zip(line.words, truth, strict=True):
        assert box_ious(np.array(word.bbox), np.array((240 - x2, 200 - y2, 240 - x1, 200 - y1))) > 0.8


def test_the_pass_numbers_lines_and_gives_words_the_number_of_their_line(context):
    image, _ = draw_lines(TEXT)
    blank = Image.new("RGB", (64, 64), "white")
    rows = [
        {"key": name, "image": encoded(one, "PNG"), "branch": "photo"} for name, one in (("a", image), ("b", blank))
    ]

    read, empty = ocr.run(iter(rows), ocr.Options(), context)

    assert [(item["text"], item["line"]) for item in read["texts"] if item["level"] == "line"] == list(
        zip(TEXT, range(3), strict=True)
    )
    assert [(item["text"], item["line"]) for item in read["texts"] if item["level"] == "word"] == [
        (word, number) for number, text in enumerate(TEXT) for word in text.split()
    ]
    assert "PP-OCRv6 small" in read["ocr_engine"]
    assert "rapidocr 3." in read["ocr_engine"]
    assert (empty["key"], empty["texts"], empty["reject"]) == ("b", [], None)
    assert empty["ocr_engine"] == read["ocr_engine"]
    assert context.counters == {"lines": 3, "words": 6}


def test_a_picture_on_which_the_models_fail_is_counted_and_keeps_its_place(context, monkeypatch):
    def fail(image):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(context.models["ocr"], "read", fail)
    image, _ = draw_lines(TEXT)

    (row,) = ocr.run(iter([{"key": "a", "image": encoded(image, "PNG")}]), ocr.Options(), context)

    assert (row["texts"], row["ocr_engine"], row["reject"]) == ([], None, None)
    assert context.counters == {"failed: RuntimeError": 1}


def test_doubtful_lines_are_dropped_and_counted():
    box, counters = (0, 0, 10, 10), Counter()
    lines = [Line(Piece(box, text, score), (Piece(box, text, score),)) for text, score in (("no", 0.3), ("yes", 0.9))]

    texts = ocr.as_texts(lines, 0.5, counters)

    assert [(item["level"], item["text"], item["line"]) for item in texts] == [("line", "yes", 0), ("word", "yes", 0)]
    assert counters == {"lines dropped: low score": 1, "lines": 1, "words": 1}


@given(
    st.lists(st.tuples(st.floats(-50, 250), st.floats(-50, 250)), min_size=4, max_size=4),
    st.integers(1, 200),
    st.integers(1, 200),
)
def test_an_upright_box_is_the_smallest_of_whole_pixels_in_the_picture_around_the_corners(corners, width, height):
    xs, ys = (
        [min(max(value, 0), limit) for value in values]
        for values, limit in zip(zip(*corners, strict=True), (width, height), strict=True)
    )

    box = upright_box(corners, (width, height))

    if box is None:
        assert min(xs) == max(xs) or min(ys) == max(ys)
    else:
        assert 0 <= box[0] <= min(xs) < box[0] + 1
        assert 0 <= box[1] <= min(ys) < box[1] + 1
        assert width >= box[2] >= max(xs) > box[2] - 1
        assert height >= box[3] >= max(ys) > box[3] - 1


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 30), st.integers(5, 12)), min_size=1, max_size=6), st.integers(0, 2))
def test_words_are_cut_where_the_gaps_are(words, shift):
    """Words of known widths with wide gaps, and loose boxes that are off by some pixels."""
    x, truth = 3, []
    for width, gap in words:
        truth.append((x, 2, x + width, 8))
        x += width + gap
    ink = np.zeros((10, x), bool)
    for left, top, right, bottom in truth:
        ink[top:bottom, left:right] = True
    loose = [(left + shift, 0, right + shift, 10) for left, _, right, _ in truth]

    assert words_in_ink(ink, (0, 0, x, 10), loose) == truth


def test_a_box_without_ink_stays_as_it_is():
    assert tight(np.zeros((4, 6), bool), (10, 20, 16, 24)) == (10, 20, 16, 24)
    assert words_in_ink(np.zeros((4, 6), bool), (10, 20, 16, 24), []) == []


def test_a_box_is_not_cut_down_to_the_darker_part_of_a_line(reader):
    image, (truth,) = draw_lines(["Sports Centre"])
    faint = image.point(lambda value: 195 + value * 60 // 255)
    image.paste(faint.crop((80, 0, 240, 180)), (80, 0))

    (line,) = reader.read(image)

    assert line.whole.text.replace(" ", "") == "SportsCentre"
    assert line.whole.bbox[0] <= truth[0][0]
    assert line.whole.bbox[2] >= truth[-1][2]


def test_a_lone_dash_is_ink_and_no_ruled_line():
    crop = np.full((20, 30, 3), 255, np.uint8)
    crop[9:11, 2:28] = 0

    assert ink_mask(crop, np.array([(0, 0), (29, 0), (29, 19), (0, 19)])).sum() == 52


@pytest.mark.parametrize(
    ("inner", "likely"), [((5, 5, 95, 15), True), ((5, 5, 60, 15), False), ((40, 5, 95, 15), False)]
)
def test_ink_that_leaves_much_of_a_line_empty_is_not_all_of_it(inner, likely):
    assert is_likely(inner, (0, 0, 100, 20)) == likely


def test_a_line_without_words_does_not_shift_the_words_of_the_next():
    corners = [(0, 0), (1, 0), (1, 1), (0, 1)]
    groups = [[("one", 0.9, corners), ("two", 0.9, corners)], [("four", 0.9, corners)]]

    found = words_of_lines(["one two", "three", "four"], groups)

    assert [[word for word, _, _ in line] for line in found] == [["one", "two"], [], ["four"]]


def test_words_and_lines_of_spaces_alone_are_left_out():
    box, counters = (0, 0, 10, 10), Counter()
    words = tuple(Piece(box, text, 0.9) for text in ("", "yes", " "))
    texts = ocr.as_texts([Line(Piece(box, " ", 0.9), words), Line(Piece(box, "yes", 0.9), words)], 0.5, counters)

    assert [(item["level"], item["text"], item["line"]) for item in texts] == [("line", "yes", 0), ("word", "yes", 0)]
    assert counters == {"lines dropped: empty": 1, "lines": 1, "words": 1}


def test_models_that_fail_on_every_picture_fail_the_shard(context, monkeypatch):
    def fail(image):
        raise RuntimeError("no kernel")

    monkeypatch.setattr(context.models["ocr"], "read", fail)
    data = encoded(Image.new("RGB", (8, 8)), "PNG")
    with pytest.raises(ManyRowsFailed, match="no kernel"):
        list(ocr.run(iter([{"key": str(n), "image": data} for n in range(ALL_ALIKE)]), ocr.Options(), context))
