"""Numbers and quotes that nobody reads aloud: odd digits, endless ones, and texts made to be slow to search."""

import random
import time

import pytest

from finecap.engine.language.text_checks import Written, contradicted_numbers, contradicted_quotes, quotes

LENGTH = 16 * 640  # the longest caption that the recaption pass takes
SIGNS = Written.of(["EXIT", "Room 25", "1000 km"])


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
