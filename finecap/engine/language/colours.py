"""The basic colour words of English, and how much of a picture has the colour that a caption names.

Colours are compared in OKLab (Ottosson 2020), where equal distances look about equally far apart; white is 1 from
black. Each word has the shades that CSS knows by their names, so that navy, royal and sky blue are all blue.
"""

from __future__ import annotations

import re

import numpy as np
from PIL import ImageColor

from finecap.engine.language.noun_rules import word_set

# Berlin and Kay's eleven basic colour terms.
SHADES = {
    "red": "red crimson firebrick darkred maroon tomato indianred",
    "orange": "orange darkorange orangered coral",
    "yellow": "yellow gold khaki goldenrod",
    "green": "green lime limegreen forestgreen darkgreen olive seagreen yellowgreen lightgreen darkseagreen teal",
    "blue": "blue navy royalblue steelblue dodgerblue skyblue lightblue cornflowerblue darkslateblue teal turquoise",
    "purple": "purple indigo rebeccapurple darkviolet mediumpurple mediumorchid violet plum darkmagenta",
    "pink": "pink lightpink hotpink deeppink palevioletred mediumvioletred orchid violet lightcoral salmon",
    "brown": "saddlebrown sienna chocolate peru tan burlywood rosybrown darkgoldenrod maroon",
    "black": "black #333333 dimgray",
    "gray": "dimgray gray darkgray silver lightgray slategray",
    "white": "white whitesmoke ivory gainsboro silver",
}
SPELLINGS = {"grey": "gray", "violet": "purple", "golden": "yellow", "silver": "gray"}
# A pixel has a named colour if no other name's nearest shade is nearer to it by more than this. Two neighbouring
# colour words lie about 0.15 apart, and people disagree on what lies between them.
SLACK = 0.05
# Pixels no further apart are of one paint: scanned and JPEG-compressed paint varies.
SAME_PAINT = 0.06
# What these are called is a kind and no look: white wine is yellow.
KINDS = word_set("wine tea coffee cabbage onion meat panda currant pepper bean")
# Words between a colour and its noun; at any other the search for the noun's adjectives ends.
_ADJECTIVE_LIMIT = 4
_ENDS = word_set(
    """
    a an the of in on at by with for to from near beside behind under over is are has that which
    """
)
_WORD = re.compile(r"[^\W_]+")


def oklab(rgb: np.ndarray) -> np.ndarray:
    """Lightness, green-red and blue-yellow of colours.

    Args:
        rgb: (..., 3) sRGB, 0-255.

    Returns:
        (..., 3) float32: L 0-1, a and b about -0.4 to 0.4.
    """
    part = np.asarray(rgb, np.float32) / 255
    linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
    cones = np.cbrt(linear @ _TO_CONES.T)
    return (cones @ _TO_LAB.T).astype(np.float32)


_TO_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ],
    np.float32,
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ],
    np.float32,
)
_LAB_OF = {
    name: oklab(np.array([ImageColor.getrgb(shade) for shade in shades.split()])) for name, shades in SHADES.items()
}


def colour_of(word: str) -> str | None:
    """The basic colour that a word names; None for every other word."""
    plain = word.casefold()
    name = SPELLINGS.get(plain, plain)
    return name if name in SHADES else None


def colours_said(caption: str, label: str) -> list[str]:
    """The colours that a caption gives to the thing itself: those among the adjectives right before its noun. The
    colours of other things in the caption are left out, and so are those of nouns that go by a colour ("red wine").

    Args:
        label: what the thing is called, as the caption calls it too.
    """
    name = [word.casefold() for word in _WORD.findall(label)]
    words = [word.casefold() for word in _WORD.findall(caption)]
    places = [place for place in range(len(words)) if name and words[place : place + len(name)] == name]
    if not places or name[-1] in KINDS:
        return []
    said = []
    for word in reversed(words[: places[0]][-_ADJECTIVE_LIMIT:]):
        if word in _ENDS:
            break
        said.append(colour_of(word))
    return [name for name in reversed(said) if name is not None]


def has_colour(lab: np.ndarray, name: str) -> np.ndarray:
    """Which pixels may be called by this colour.

    Args:
        lab: (..., 3) of `oklab`.
        name: one of SHADES.

    Returns:
        (...) bool.
    """
    nearest = np.min([_distance(lab, shades) for shades in _LAB_OF.values()], axis=0)
    return _distance(lab, _LAB_OF[name]) <= nearest + SLACK


def is_called(lab: np.ndarray, name: str) -> bool:
    """Is one colour (3,) best named so? Stricter than `has_colour`: no other name is nearer."""
    return bool(_distance(lab, _LAB_OF[name]) <= min(_distance(lab, shades) for shades in _LAB_OF.values()))


def _distance(lab: np.ndarray, shades: np.ndarray) -> np.ndarray:
    """To the nearest of some (n, 3) shades."""
    return np.min([np.linalg.norm(lab - shade, axis=-1) for shade in shades], axis=0)
