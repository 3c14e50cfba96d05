"""Sentences end where their scripts mark it, and nowhere else."""

import pytest

from finecap.sentences import sentences


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A cat. It sleeps!", ["A cat.", "It sleeps!"]),
        ('It says "Stop." Dr. B. Lee waits', ['It says "Stop."', "Dr. B. Lee waits"]),
        ("A bar 3.5 high… A line.", ["A bar 3.5 high…", "A line."]),
        ("一只猫。它在睡觉。", ["一只猫。", "它在睡觉。"]),
        ("no mark at all", ["no mark at all"]),
        ("  ", []),
    ],
)
def test_a_text_falls_into_its_sentences(text, expected):
    assert sentences(text) == expected
