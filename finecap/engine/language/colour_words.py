"""The basic colour words of English, their shades, and the colours that a caption gives to a thing.

Each word has the shades that CSS knows by their names, so that navy, royal and sky blue are all blue.
"""

from __future__ import annotations

import re

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
