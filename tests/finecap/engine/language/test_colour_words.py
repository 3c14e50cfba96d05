"""The colours of a caption are those of the thing itself."""

import pytest

from finecap.engine.language.colour_words import colours_said


@pytest.mark.parametrize(
    ("caption", "label", "said"),
    [
        ("the gray bar for Sep, 75", "bar", ["gray"]),
        ("A big grey bar", "bar", ["gray"]),
        ("a dark blue and white bus in front of a red house", "bus", ["blue", "white"]),
        ("a man in a red shirt", "man", []),
        ("a bus beside a red car", "bus", []),
        ("a glass of white wine", "wine", []),
        ("an orange on a plate", "orange", []),
        ("a purple bunch of grapes", "bunch of grapes", ["purple"]),
        ("something else", "bus", []),
        ("", "", []),
    ],
)
def test_only_the_colours_of_the_thing_itself_count(caption, label, said):
    assert colours_said(caption, label) == said
