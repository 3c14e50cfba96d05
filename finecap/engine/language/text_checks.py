"""Numbers and quotes of a caption that are not in the text that OCR read in the picture.

Only numbers that claim to be read from the picture are checked. Not checked: counts ("3 dogs", "a 4-column table"),
estimates ("about 50"), ordinals, decades, grids ("2x3"), shares of the picture, numbers in words, and, for charts
without value labels, any number within the axis range, because it can be read off the axis without being printed. The
false alarms and what is missed are measured by benchmarks/engine/quality.py.

Captions and texts are untrusted: nothing here may take a time that grows with the square of their length.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from difflib import get_close_matches
from functools import cache, cached_property
from itertools import groupby

import numpy as np

from finecap.engine.language.likeness import alike, letter_counts

# A word counts as read if one of the OCR's words is so similar (difflib's ratio): reading models confuse letters.
SIMILAR = 0.75
# One word in this many of a quote may be missing; quotes of fewer words must be there whole.
WORDS_PER_MISS = 10
# Numbers in equal steps that make an axis, at least; matplotlib's steps.
AXIS_TICKS = 4
AXIS_STEPS = [Decimal(step).scaleb(power) for step in ("1", "2", "2.5", "5") for power in range(-3, 8)]
# A chart writes its values if it writes this many other numbers within the range of an axis.
WRITTEN_VALUES = 2
LARGEST_COUNT = 100
# No axis has longer numbers; Decimal's remainders have 28 digits.
LONGEST_TICK = 15
# Characters of a caption before and after a number that say what it is; most characters of a quote.
NEAR = 100
LONGEST_QUOTE = 1000

_MANY = f"{{1,{LONGEST_QUOTE}}}"
_QUOTES = re.compile(
    rf"“([^”]{_MANY})”|„([^“”]{_MANY})[“”]|«([^»]{_MANY})»|「([^」]{_MANY})」|\"([^\"]{_MANY})\""
    rf"|(?<!\w)‘((?:[^’]|(?<!‘)’(?=\w)){_MANY})’(?!\w)"
    rf"|(?<![\w'])'(?!\s)((?:[^']|(?<=\w)'(?=\w)){_MANY})'(?!\w)"
)
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_]+")
_TOKEN = re.compile(r"[^\s()\[\]{}“”\"«»;]+")
_DIGIT = re.compile(r"\d")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
# With a currency or a unit.
_PLAIN = re.compile(r"[^\w\s]*(\d+(?:[.,]\d+)*)(?:[^\W\d_]{0,3}|[%°]\w?|[^\w\s]*)")
_NO_READING = re.compile(
    r"\d+(?:st|nd|rd|th)|['’]?\d{2,4}['’]?s|\d+[x×]\d+(?:[x×]\d+)?|\d[dD]|\d+(?:[–-]\d+)?-[a-z].*", re.ASCII
)
_ESTIMATE = re.compile(
    r"(?:about|around|approximately|roughly|circa|nearly|almost|over|under|up to|at least|(?:more|less|fewer) than"
    r"|~|≈)\s*(?:an?\s+)?\W?$",
    re.IGNORECASE,
)
_COUNTED = re.compile(
    r"\s+(?:(?:or|to)\s+\d+\s+)?(?:[a-z][\w-]*,?\s+){0,3}?"
    r"(?:[a-z][\w-]*[^\Ws](?<!ou)(?<!i)s\b|people|persons?|men\b|women|children|sheep|fish|geese|feet|teeth|mice|deer|cattle|dice)"
)
_SHARE = re.compile(r"\s*(?:%|percent|per cent)\s+of\s+the\s+(?:image|picture|photo|frame|page|scene|width|height)")
_LIST_NUMBER = re.compile(r"(?:^|\n)\s*$")


@dataclass(frozen=True)
class Written:
    """What OCR read in a picture, ready to be compared with.

    Attributes:
        words: lower-cased.
        letters: all letters and digits in reading order, lower-cased, without spaces.
        numbers: every number, as every value that its points and commas may mean.
        axes: ranges of the axes, lowest and highest value.
    """

    words: frozenset[str]
    letters: str
    numbers: frozenset[Decimal]
    axes: tuple[tuple[Decimal, Decimal], ...]

    @classmethod
    def of(cls, lines: Sequence[str]) -> Written:
        """From the texts of the lines in reading order."""
        words = [word for line in lines for word in words_of(line)]
        numbers = {value for line in lines for value in _all_numbers(line)}
        return cls(frozenset(words), "".join(words), frozenset(numbers), tuple(_axes(lines)))

    def has_word(self, word: str) -> bool:
        """Was the word read, all but letter by letter? Words with digits must be there exactly."""
        if word in self.words or (len(word) > 3 and word in self.letters):
            return True
        if any(map(str.isdigit, word)):
            return False
        words, letters = self._counted
        return bool(get_close_matches(word, [words[at] for at in alike(word, letters, SIMILAR)], 1, SIMILAR))

    @cached_property
    def _counted(self) -> tuple[list[str], np.ndarray]:
        words = list(self.words)
        return words, letter_counts(words)

    def has_number(self, values: set[Decimal]) -> bool:
        """Was a number read that may mean one of these values, or does an axis hold one?"""
        return bool(values & self.numbers) or any(low <= value <= high for value in values for low, high in self.axes)


def contradicted_numbers(caption: str, written: Written) -> list[str]:
    """The readings of a caption, outside its quotes, that are not in the text."""
    return [token for token in readings(caption) if not _has_token(token, written)]


def contradicted_quotes(caption: str, written: Written) -> list[str]:
    """The quotes of a caption that are not in the text."""
    has_word = cache(written.has_word)
    return [quote for quote in quotes(caption) if not _has_quote(quote, has_word)]


def quotes(caption: str) -> list[str]:
    """Strings in quotation marks of any kind; apostrophes are none. What dots leave out parts a quote in two."""
    found = [next(group for group in match.groups() if group) for match in _QUOTES.finditer(caption)]
    parts = [part.strip() for quote in found for part in re.split(r"\.{3}|…", quote)]
    return [part for part in parts if len("".join(words_of(part))) > 1]


def readings(caption: str) -> list[str]:
    """The numbers, dates, times and codes of a caption that were read and not counted or guessed; those in quotes left
    out.
    """
    unquoted = _QUOTES.sub(lambda match: " " * len(match[0]), caption)
    return list(_readings(unquoted))


def _readings(text: str) -> Iterator[str]:
    for match in _TOKEN.finditer(text):
        if not _DIGIT.search(match[0]):
            continue
        token, before, end = match[0].strip(".,:!?'’‘*_~≈"), max(0, match.start() - NEAR), match.end()
        if _NO_READING.fullmatch(token) or _ESTIMATE.search(text, before, match.start()):
            continue
        if _ESTIMATE.match(match[0][:1]):
            continue
        short = token.isdecimal() and len(token) <= len(str(LARGEST_COUNT))
        if match[0][-1:] in ".)" and short and len(token) < 3 and _LIST_NUMBER.search(text, before, match.start()):
            continue
        after = text[end : end + NEAR]
        if _SHARE.match(after) or (token.endswith("%") and _SHARE.match("%" + after)):
            continue
        bare = short and match[0].endswith(token) and int(token) <= LARGEST_COUNT
        if not (bare and _COUNTED.match(after)):
            yield token


def _has_token(token: str, written: Written) -> bool:
    plain = _PLAIN.fullmatch(token)
    if plain and (values := _values(plain[1])):
        return written.has_number(values)
    runs = re.findall(r"\d+", token)
    if any(map(str.isalpha, token)):
        return "".join(words_of(token)) in written.letters
    return all(written.has_number({Decimal(run)}) for run in runs)


def _has_quote(quote: str, has_word: Callable[[str], bool]) -> bool:
    words = words_of(quote)
    return sum(not has_word(word) for word in words) <= len(words) // WORDS_PER_MISS


def words_of(text: str) -> list[str]:
    """The words of a text, lower-cased; a Chinese or Japanese character is one."""
    return _WORD.findall(text.casefold())


def _all_numbers(line: str) -> Iterator[Decimal]:
    """Every number of a line; the parts of dates, times and codes one by one as well."""
    for match in _NUMBER.finditer(line):
        yield from _values(match[0])
    for token in line.split():
        plain = _PLAIN.fullmatch(token)
        if not plain or not _values(plain[1]):
            yield from map(Decimal, re.findall(r"\d+", token))


def _values(number: str) -> set[Decimal]:
    """What digits with points and commas may mean: 1,234.5 is 1234.5, 1.234 is 1.234 or 1234, 1,5 is 1.5."""
    digits = re.sub(r"[.,]", "", number)
    *whole, last = re.split(r"[.,]", number)
    values = set()
    if not whole or (len(last) == 3 and all(len(part) == 3 for part in whole[1:]) and len(whole[0]) < 4):
        values.add(Decimal(digits))
    if whole and all(len(part) == 3 for part in whole[1:]):
        values.add(Decimal(f"{''.join(whole)}.{last}"))
    return values


def _axes(lines: Sequence[str]) -> Iterator[tuple[Decimal, Decimal]]:
    """Ranges of the round numbers in equal steps among the lines that are a number and nothing else, and a step more
    on either side, since bars and curves reach beyond the last tick. A range in which other numbers stand is left out:
    that chart writes its values.
    """
    alone = [line.strip() for line in lines]
    numbers = [line for line in alone if len(line) <= LONGEST_TICK and _NUMBER.fullmatch(line)]
    values = {value for number in numbers for value in _values(number)}
    axes = [(ticks, step) for step in AXIS_STEPS for ticks in _runs(values, step)]
    others = sorted(values.difference(*(ticks for ticks, _ in axes)))
    for ticks, step in axes:
        low, high = ticks[0] - step, ticks[-1] + step
        if bisect_right(others, high) - bisect_left(others, low) < WRITTEN_VALUES:
            yield low, high


def _runs(values: set[Decimal], step: Decimal) -> Iterator[list[Decimal]]:
    """Numbers that follow each other in this step, from the lowest to the highest."""
    multiples = sorted(int(value / step) for value in values if value % step == 0)
    for _, run in groupby(enumerate(multiples), key=lambda item: item[1] - item[0]):
        ticks = [multiple * step for _, multiple in run]
        if len(ticks) >= AXIS_TICKS:
            yield ticks
