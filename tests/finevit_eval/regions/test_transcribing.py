"""What was read and counted: exact shares, jiwer's error rates by hand, and what always answering the same gives."""

import pytest

from finevit_eval.regions.asking import Answered, Question
from finevit_eval.regions.transcribing import judge_counting, judge_reading


def asked(*truths):
    return [Question(str(at), at, "", "", truth) for at, truth in enumerate(truths)]


def answered(*texts):
    return [Answered(text, text, 10, 10, "picture") for text in texts]


def test_reading_right_but_for_white_space_has_no_errors():
    outcome = judge_reading(asked("Total 7", "two\nlines"), answered(" Total  7\n", "two lines"))
    assert (outcome.score, outcome.others["cer"], outcome.others["wer"]) == (1.0, 0.0, 0.0)
    assert outcome.controls == {"shuffled": 0.0, "most_common": 0.5}


def test_error_rates_count_all_characters_and_words_together():
    outcome = judge_reading(asked("abcd", "one two"), answered("abXd", "one"))
    assert outcome.score == 0.0
    assert outcome.others["cer"] == pytest.approx((1 + 4) / (4 + 7))
    assert outcome.others["wer"] == pytest.approx((1 + 1) / (1 + 2))
    assert [sample["cer"] for sample in outcome.samples] == pytest.approx([1 / 4, 4 / 7])


def test_an_error_rate_over_one_does_not_reach_the_headline():
    outcome = judge_reading(asked("a", "b"), answered("much too long", ""))
    assert outcome.others["cer"] > 1
    assert outcome.score == 0.0


def test_case_and_accents_count():
    assert judge_reading(asked("Café"), answered("café")).score == 0.0
    assert judge_reading(asked("Café"), answered("Cafe")).score == 0.0


def test_a_number_is_right_as_a_figure_or_a_word():
    outcome = judge_counting(asked(["3", "three"], ["1", "one"], ["3", "three"]), answered("Three.", "1", "13"))
    assert [sample["score"] for sample in outcome.samples] == [1.0, 1.0, 0.0]
    assert outcome.controls["most_common"] == pytest.approx(2 / 3)
