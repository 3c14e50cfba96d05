"""The ensemble is OpenAI's: 80 different prompts, each with one place for a name."""

from finevit_eval.zero_shot.class_prompts import OPENAI_80, PLAIN, filled


def test_each_of_the_eighty_has_one_place_for_a_name():
    assert len(set(OPENAI_80)) == 80
    assert all(prompt.count("{}") == 1 for prompt in OPENAI_80)
    assert set(PLAIN) < set(OPENAI_80)


def test_a_name_with_braces_stays_as_it_is():
    assert filled(PLAIN, "set {1}") == ["a photo of a set {1}."]
