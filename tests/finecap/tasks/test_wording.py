"""Wordings of the dense tasks: those that ship, and a file of one's own."""

import pytest
import yaml

from finecap.tasks.wording import FIXED_WORDINGS, load_wordings


def test_one_is_the_fixed_wording_with_which_evaluations_ask():
    assert load_wordings("one") == {task: [wording] for task, wording in FIXED_WORDINGS.items()}


def test_several_begin_with_the_fixed_one_and_can_all_be_filled_in():
    words = {"text": "{T}", "box": "{B}", "caption": "{C}"}
    for task, wordings in load_wordings("several").items():
        assert wordings[0] == FIXED_WORDINGS[task]
        assert len(set(wordings)) == len(wordings) > 2
        held = {name for name in words if f"{{{name}}}" in FIXED_WORDINGS[task]}
        for wording in wordings:
            filled = wording.format(**words)
            assert {name for name, word in words.items() if word in filled} == held


def test_a_file_of_one_s_own_adds_to_the_tasks_that_it_names(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"text_to_box": ['Suche "{text}".']}))
    assert load_wordings(str(path)) == load_wordings("one") | {
        "text_to_box": [FIXED_WORDINGS["text_to_box"], 'Suche "{text}".']
    }


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"text_to_box": ["Find the text."]}, r"'Find the text\.'; expected a text that holds \{text\}, once"),
        ({"text_to_box": ["{text} or {text}"]}, "once"),
        ({"text_to_box": ["{text!r}"]}, "once"),
        ({"text_to_box": ["{text"]}, "once"),
        ({"global_caption": ["Describe {it}."]}, "holds nothing in braces"),
        ({"global_caption": "Describe."}, "expected a list of texts"),
        ({"global_caption": [" "]}, "expected a list of texts"),
        ({"global": ["Describe."]}, r"holds \['global'\]; expected lists of texts for transcribe"),
        (["Describe."], "expected lists of texts for transcribe"),
        (None, "expected lists of texts for transcribe"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path, content, said):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match=said):
        load_wordings(str(path))


def test_what_is_neither_a_name_nor_a_file_is_refused():
    with pytest.raises(ValueError, match=r"'severl'.*expected one, several or the path"):
        load_wordings("severl")
