"""Colour words are refuted by pixels only where the pixels are clear."""

import numpy as np
import pytest
from PIL import ImageColor

from finecap.corpus.charts.spec import COLORS
from finecap.engine.language.colour_words import SHADES
from finecap.engine.reading.colours import has_colour, is_called, oklab


def test_oklab_is_that_of_its_author():
    """The values of Ottosson's article for linear light, at the three primaries and the ends of the scale."""
    known = {"white": (1, 0, 0), "black": (0, 0, 0), "red": (0.628, 0.225, 0.126), "lime": (0.866, -0.234, 0.179)}
    known["blue"] = (0.452, -0.032, -0.312)

    for name, expected in known.items():
        assert oklab(np.array(ImageColor.getrgb(name))) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("name", COLORS)
def test_the_colours_of_the_corpus_are_called_what_they_are_and_no_opposite(name):
    paint = oklab(np.array(COLORS[name]))
    neighbours = {
        "red": {"orange", "brown", "pink"},
        "orange": {"yellow", "red", "brown"},
        "purple": {"blue", "pink"},
        "brown": {"red", "orange", "black"},
        "pink": {"purple", "red"},
        "blue": {"purple", "green"},
        "gray": {"black", "white", "blue"},
        "green": {"blue", "yellow"},
    }

    assert has_colour(paint, name)
    assert is_called(paint, name)
    assert {other for other in SHADES if has_colour(paint, other)} <= {name, *neighbours[name]}
    assert [other for other in SHADES if is_called(paint, other)] == [name]
