"""What captions claim to read against what OCR found; odd digits, endless ones, and texts that are slow to search."""

import random
import time
from decimal import Decimal

import hypothesis.strategies as st
import pytest
from hypothesis import assume, given, settings

from finecap.engine.language.text_checks import Written, contradicted_numbers, contradicted_quotes, quotes, readings

LENGTH = 16 * 640  # the longest caption that the recaption pass takes
SIGNS = Written.of(["EXIT", "Room 25", "1000 km"])
PAGE = ["Order form", "Room 12", "Total: $1,234.50", "Date 14.09.1984", "Order No: KH-5203", "Don't walk"]


@pytest.mark.parametrize(
    "caption",
    [
        "Three dogs and 2 people beside 12 small red chairs.",
        "A form with 14 fields and a 3-column table, a 2x3 grid, 3D letters.",
        "About 50 of them, around $700, more than 30, in the 1950s, the 21st century, the '90s.",
        "The table takes 40% of the page and 30 percent of the image.",
        "1. First\n2. Second",
    ],
)
def test_counts_estimates_and_shares_are_no_readings(caption):
    assert readings(caption) == []


@pytest.mark.parametrize(
    "caption",
    ["Room 12", "1234.5 dollars", "$1,234.50", "dated 1984", "14/09/1984", "order KH-5203", "order kh 5203"],
)
def test_readings_that_are_on_the_page_pass(caption):
    assert contradicted_numbers(caption, Written.of(PAGE)) == []


@pytest.mark.parametrize("caption", ["Room 13", "$1,234.60", "1985", "14/08/1984", "order KH-5208", "bus 42"])
def test_readings_that_are_not_on_the_page_are_found(caption):
    assert len(contradicted_numbers(caption, Written.of(PAGE))) == 1


def test_a_value_within_an_axis_is_no_contradiction():
    chart = Written.of(["0", "20", "40", "60", "80", "Mon", "Tue"])

    assert contradicted_numbers("Mon 54.3, Tue 99", chart) == []
    assert contradicted_numbers("Mon 254.3", chart) == ["254.3"]
    assert contradicted_numbers("Mon 54.3", Written.of(["0", "20", "41", "60"])) == ["54.3"]


def test_a_value_of_a_chart_that_writes_its_values_must_be_one_of_them():
    chart = Written.of(["0", "20", "40", "60", "80", "1964", "1972", "54.3", "71.8"])

    assert contradicted_numbers("1964 54.3, 1972 71.8", chart) == []
    assert contradicted_numbers("1964 57.3, 1972 71.8", chart) == ["57.3"]


def test_quotes_of_every_kind_are_found_and_apostrophes_are_none():
    caption = "\"STOP\", “No entry”, «Sortie», ‘Don’t walk’, 'way out', the dog's and the dogs' bowls, “so … on it”"

    assert quotes(caption) == ["STOP", "No entry", "Sortie", "Don’t walk", "way out", "so", "on it"]


@pytest.mark.parametrize(
    ("caption", "wrong"),
    [
        ('It reads "Order form" and "don’t walk".', []),
        ('It reads "Ordr from".', []),  # letters that a reader confuses
        ('It reads "Room 13".', ["Room 13"]),
        ('It reads "Closed today".', ["Closed today"]),
        ('Someone says "order form Room twelve".', ["order form Room twelve"]),
    ],
)
def test_quotes_are_compared_with_the_page(caption, wrong):
    assert contradicted_quotes(caption, Written.of(PAGE)) == wrong


@given(
    st.lists(st.decimals(0, 10**6, places=2).map(lambda value: value.normalize()), min_size=1, max_size=8), st.data()
)
def test_a_number_passes_if_and_only_if_it_was_written(numbers, data):
    lines = [f"item {number:f}" for number in numbers]
    one = data.draw(st.sampled_from(numbers))
    changed = one + data.draw(st.sampled_from([Decimal("0.25"), Decimal(7), Decimal(-3)]))
    assume(changed > 0 and changed not in numbers)
    # 1.234 may be a thousand: such a pair is no contradiction.
    assume(all(len(f"{number:f}".partition(".")[2]) < 3 for number in [*numbers, changed]))

    assert contradicted_numbers(f"A sign says {one:f}.", Written.of(lines)) == []
    assert contradicted_numbers(f"A sign says {changed:f}.", Written.of(lines)) == [f"{changed:f}"]


WORDS = st.lists(st.text("abcdefghijklmnopqrstuvwxyz", min_size=4, max_size=9), min_size=1, max_size=9)


@settings(deadline=None)
@given(WORDS, st.integers(0, 8))
def test_a_quote_passes_as_it_stands_and_not_with_a_foreign_word(words, place):
    written = Written.of([" ".join(words)])
    changed = [*words]
    changed[place % len(words)] = "0123"

    assert contradicted_quotes(f'It says "{" ".join(words)}".', written) == []
    assert contradicted_quotes(f'It says "{" ".join(changed)}".', written) == [" ".join(changed)]


@given(st.text(max_size=80), st.lists(st.text(max_size=20), max_size=4))
def test_whatever_is_written_is_compared_without_an_error(caption, lines):
    written = Written.of(lines)

    assert set(contradicted_numbers(caption, written)) <= set(readings(caption))
    assert set(contradicted_quotes(caption, written)) <= set(quotes(caption))


def test_a_superscript_is_part_of_what_was_read():
    assert contradicted_numbers("A sign over 25² metres, 10³ and 30² more", SIGNS) == ["10³", "30²"]


@pytest.mark.parametrize("digits", [26, 40, 5000])
def test_a_number_may_have_any_length(digits):
    barcode = "1" + "0" * (digits - 1)
    written = Written.of([barcode, "0", "5", "10", "15", "20"])
    assert contradicted_numbers(f"The label reads {barcode} above.", written) == []
    assert contradicted_numbers(f"The label reads {'2' * digits} above.", written) == ["2" * digits]
    assert written.axes  # the ticks beside it are an axis all the same


def word(source):
    return "".join(source.choice("abcdefghijklmnop") for _ in range(source.randint(4, 9)))


def repeated(text):
    return (text * (LENGTH // len(text) + 1))[:LENGTH]


SOURCE = random.Random(0)
LINES = [f"{word(SOURCE)} {word(SOURCE)}" for _ in range(1500)] + [str(5 * number) for number in range(500)]
SLOW = {
    "numbers": " ".join(map(str, range(LENGTH)))[:LENGTH],
    "one number": repeated("9"),
    "no number": repeated("a"),
    "words after numbers": repeated("3 aaaa-aaaa "),
    "open quotes": repeated("“"),
    "apostrophes": repeated("‘a’bcd"),
    "single quotes": repeated(" 'a'b"),
    "the same quote": repeated('"abcd" '),
    "many quotes": "".join(f'"{word(SOURCE)} {word(SOURCE)}" ' for _ in range(2000))[:LENGTH],
    "marks": "".join(SOURCE.choice("“”‘’'\"«»「」„ a1.,%\n") for _ in range(LENGTH)),
}


@pytest.mark.parametrize("caption", SLOW.values(), ids=SLOW)
def test_no_caption_takes_long(caption):
    written = Written.of(LINES)
    start = time.process_time()
    contradicted_numbers(caption, written)
    contradicted_quotes(caption, written)
    assert time.process_time() - start < 5  # at most 0.8 s on one core; 3 to 15 s where it grew with the square


def test_apostrophes_inside_single_quotes_do_not_end_them():
    assert quotes("A note ‘don’t stop’ and 'it's here' and “two words”") == ["don’t stop", "it's here", "two words"]
