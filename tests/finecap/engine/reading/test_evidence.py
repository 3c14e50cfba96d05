"""Pixels and OCR decide on captions of bars, and refute what they contradict; of the rest they say nothing."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from finecap.engine.reading.bars import bar_at, texts_at_ends
from finecap.engine.reading.evidence import is_other_colour, judge_caption, reads_otherwise


def painted(boxes, size=(200, 160), ground="white"):
    image = Image.new("RGB", size, ground)
    draw = ImageDraw.Draw(image)
    for (x1, y1, x2, y2), paint in boxes:
        draw.rectangle((x1, y1, x2 - 1, y2 - 1), fill=paint)
    return image


def read(*found):
    return [
        {"bbox": list(box), "level": level, "text": text, "score": 0.9, "line": number}
        for number, (text, box) in enumerate(found)
        for level in ("line", "word")
    ]


@settings(max_examples=40, deadline=None)
@given(st.integers(12, 60), st.integers(12, 60), st.integers(60, 120), st.integers(60, 120), st.integers(0, 999))
def test_a_bar_is_measured_whatever_the_box_that_was_drawn_around_it(x1, y1, x2, y2, seed):
    rng = random.Random(seed)
    width, height = x2 - x1, y2 - y1
    if min(width, height) < 8:
        return
    image = painted([((x1, y1, x2, y2), "purple")])
    box = [
        edge + rng.uniform(-0.2, 0.2) * side for edge, side in zip((x1, y1, x2, y2), (width, height) * 2, strict=True)
    ]

    bar = bar_at(image, box)

    assert bar is not None
    assert bar.box == (x1, y1, x2, y2)


def test_noise_and_blank_paper_are_no_bars():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (160, 200, 3), dtype=np.uint8))

    assert bar_at(noise, [50, 50, 120, 120]) is None
    assert bar_at(painted([]), [50, 50, 120, 120]) is None


def test_the_texts_of_a_bar_are_those_at_its_ends():
    """Two standing bars, whose names OCR took for one line, under a title and above an axis' name."""
    words = [("75", (40, 44, 60, 56)), ("Sep", (35, 114, 65, 126)), ("Sat", (135, 114, 165, 126))]
    others = [("Visitors by month and year", (20, 4, 180, 16)), ("Month", (80, 140, 120, 152))]
    texts = read(*words, *others)
    texts.append({"bbox": [35, 114, 165, 126], "level": "line", "text": "Sep Sat", "score": 0.9, "line": 9})

    standing, lying = texts_at_ends([20, 60, 80, 110], texts)

    assert sorted(set(standing)) == ["75", "Sep"]
    assert lying == []


LYING = painted([((60, 20, 160, 40), "gray"), ((60, 60, 120, 80), "gray")])
AT_LYING = read(
    ("May", (30, 24, 56, 36)), ("9.6", (164, 24, 184, 36)), ("Jul", (30, 64, 56, 76)), ("4.7", (124, 64, 144, 76))
)


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("the gray bar for May, 9.6", ("verified", "read at the bar")),
        ("the gray bar for May, 4.7", ("refuted", "number")),
        ("the gray bar for Jul, 9.6", ("refuted", "name")),
        ("the gray bar for Jul", ("refuted", "name")),
        ("the green bar for May, 9.6", ("refuted", "colour")),
        ("the gray bar of May among others", (None, None)),
        ("the bar of May, 9.6, in green", (None, None)),  # its own colour or another's, who knows
        ("the gray bar", (None, None)),
        ("", (None, None)),
    ],
)
def test_bars_that_lie_are_judged_like_those_that_stand(caption, expected):
    assert judge_caption(caption, "bar", [60, 20, 160, 40], LYING, AT_LYING, 0.5) == expected


def test_a_name_that_is_an_article_too_is_read():
    image = painted([((20, 60, 80, 110), "green")])
    texts = read(("B", (45, 114, 55, 126)), ("12", (40, 44, 60, 56)), ("A", (145, 114, 155, 126)))

    right = judge_caption("the green bar for B, 12", "bar", [20, 60, 80, 110], image, texts, 0.5)
    wrong = judge_caption("the green bar for A, 12", "bar", [20, 60, 80, 110], image, texts, 0.5)

    assert (right[0], wrong[0]) == ("verified", "refuted")


def test_numbers_at_a_bar_are_no_axis():
    ladder = read(
        *[(str(number), (30 + 22 * number // 10, 44, 48 + 22 * number // 10, 56)) for number in (10, 20, 30, 40)]
    )
    image = painted([((20, 60, 160, 110), "green")])

    assert judge_caption("the green bar, 25", "bar", [20, 60, 160, 110], image, ladder, 0.5) == ("refuted", "number")
    assert judge_caption("the green bar, 20", "bar", [20, 60, 160, 110], image, ladder, 0.5)[0] == "verified"


def test_without_text_nothing_is_verified():
    assert judge_caption("the gray bar for May, 9.6", "bar", [60, 20, 160, 40], LYING, [], 0.5) == (None, None)


@pytest.mark.parametrize(
    ("caption", "is_other"),
    [
        ("a red bus", False),
        ("a blue bus", True),
        ("a yellow and red bus", False),
        ("a bus beside a blue car", False),
        ("a big bus", False),
        ("a white bus", True),  # the white around it is its background
    ],
)
def test_the_colour_of_a_thing_is_looked_for_beside_its_background(caption, is_other):
    image = painted([((60, 40, 140, 120), "red"), ((70, 50, 90, 70), "black")])

    assert is_other_colour(caption, "bus", [50, 30, 150, 130], image) == is_other


def test_a_number_or_quote_counts_against_a_caption_only_where_its_own_box_was_read():
    texts = read(("42 North", (60, 40, 100, 60)), ("EXIT", (10, 100, 50, 120)))
    here, elsewhere = [50, 30, 150, 80], [100, 90, 190, 150]

    assert reads_otherwise("a bus with the number 24", here, texts)
    assert reads_otherwise('a bus that says "South Gate"', here, texts)
    assert not reads_otherwise("a bus with the number 42", here, texts)
    assert not reads_otherwise('a bus near a sign that says "EXIT"', here, texts)
    assert not reads_otherwise("a bus with the number 24", elsewhere, texts)


EDGES = st.floats(-50, 250) | st.sampled_from([0.0, 200.0, 160.0, float("nan"), float("inf")])
SAYINGS = st.sampled_from(["the gray bar for May, 9.6", 'a bar that reads "May"', "bar", ", 7", "bar bar red bar 9"])


@settings(deadline=None)
@given(st.lists(EDGES, min_size=4, max_size=4), SAYINGS | st.text("bar 9.,\"'ABé", max_size=30))
def test_whatever_the_box_and_the_caption_there_is_a_verdict_or_none(box, caption):
    verdict, reason = judge_caption(caption, "bar", box, LYING, AT_LYING, 0.5)

    assert (verdict is None) == (reason is None)
    assert verdict in ("verified", "refuted", None)
