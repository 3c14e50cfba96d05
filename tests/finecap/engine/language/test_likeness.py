"""The bound never leaves out a text that difflib would find."""

from difflib import SequenceMatcher

from hypothesis import given
from hypothesis import strategies as st

from finecap.engine.language.likeness import alike, letter_counts

TEXTS = st.text(st.sampled_from("abcdé😀\ud800 "), max_size=12)


@given(TEXTS, st.lists(TEXTS, min_size=1, max_size=8), st.sampled_from([0.3, 0.5, 0.75, 1.0]))
def test_every_text_of_that_ratio_is_among_them(text, texts, ratio):
    found = alike(text, letter_counts(texts), ratio)
    for index, other in enumerate(texts):
        if text + other and SequenceMatcher(None, text, other, autojunk=False).ratio() >= ratio:
            assert index in found


def test_the_most_alike_come_first_and_the_unlike_not_at_all():
    assert alike("abcd", letter_counts(["abxx", "wxyz", "abcd", "dcba"]), 0.5) == [2, 3, 0]
