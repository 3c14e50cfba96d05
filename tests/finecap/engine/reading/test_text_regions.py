"""Quotations of a caption beside what OCR reads: empty ones, long ones, and more of them than anybody writes."""

import random
import time

import pytest

from finecap.engine.reading.text_regions import LONGEST_QUOTATION, MOST_QUOTATIONS, with_read_quotations


@pytest.mark.parametrize("caption", ['a sign that reads " "', 'A 5" "BIG" sign', "a sign ' '", '" "'])
def test_a_quotation_with_nothing_in_it_stays(caption):
    assert with_read_quotations(caption, ["STOP", "HERE"]) == (caption, 0)


def test_the_rest_of_such_a_caption_is_mended():
    assert with_read_quotations('A " " and "STQP".', ["STOP"]) == ('A " " and "STOP".', 1)


def test_quotations_beyond_what_is_compared_stay():
    many = '"STQP" ' * (MOST_QUOTATIONS + 3)
    assert with_read_quotations(many, ["STOP"])[1] == MOST_QUOTATIONS
    long = "A" * LONGEST_QUOTATION
    assert with_read_quotations(f'"{long[:-1]}B"', [long])[1] == 1
    assert with_read_quotations(f'"{long}B"', [long])[1] == 0


def test_no_caption_takes_long():
    source = random.Random(0)
    lines = ["".join(source.choice("abcdef ") for _ in range(30)) for _ in range(600)]
    caption = "".join(f'"{source.choice(lines)[:-3]}xyz" ' for _ in range(100))
    start = time.process_time()
    assert with_read_quotations(caption, lines)[1] == MOST_QUOTATIONS
    assert time.process_time() - start < 10  # 0.5 s on one core; minutes where each was compared with each
