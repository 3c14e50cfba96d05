"""Noun phrases without a model: a caption is cut at function words, verbs and punctuation; what lies between is a
phrase whose last word is its head.

Version 1 of the rules. They know closed word classes and some hundred verbs that captions use; an unknown verb makes a
phrase too long or wrong, which the detector then does not find. A spaCy model is better wherever there is one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple


def word_set(text: str) -> frozenset[str]:
    """The words of a text that is a list of words."""
    return frozenset(text.split())


DETERMINERS = word_set(
    """
    a an the this that these those some any no each every both either neither all another other such same various
    several many few most more much numerous multiple different certain my your his her its our their whose which
    what single individual additional zero one two three four five six seven eight nine ten eleven twelve dozen
    dozens hundreds thousands
    """
)
PRONOUNS = word_set(
    """
    i me we us you he him she it they them one ones who whom that this these those which what each another others
    some all both several many few most none someone something everyone everything itself himself herself
    themselves there here
    """
)
_FUNCTION = word_set(
    """
    of in on at by with from to into onto over under above below between among amongst behind beside besides
    beneath near next through throughout across along around against toward towards within without inside outside
    upon up down off out for about as like than per via beyond during before after until while despite amid amidst
    atop alongside underneath including featuring towards and or but nor so yet if when where because since
    although though whereas then not also too very just only even still almost nearly approximately both together
    apart away however additionally overall suggesting likely perhaps maybe possibly slightly partially partly
    mostly mainly how why well again ahead aside nearby further forward backward upward downward instead rather
    quite
    """
)
_BE_AND_MODALS = word_set(
    """
    is are was were be been being am has have had having do does did can could may might must shall should will
    would isn't aren't doesn't don't can't
    """
)
_VERBS = word_set(
    """
    add adorn allow appear arrange attach balance be bear blend blur bring build buy capture carry cast catch chase
    climb come consist contain contrast convey cover create cross dangle depict display dominate draw dress eat
    emerge enhance enjoy evoke exude face fall feature fill flank float flow fly follow form frame gaze give glow
    go grasp graze grow hang highlight hold illuminate include indicate interact jump keep kick lay lead lean lie
    line live look make merge mount move occupy offer open overlook paint park perch pile place play point pose
    position print provide pull push put read reach reflect relax represent resemble rest reveal ride rise run sail
    say scatter seem separate serve set shine show sit sleep smile span spread stack stand stare start stay stop
    stretch suggest support surround swim swing take talk throw tie touch tower travel try turn use visit wait walk
    watch wear work write connect complement emphasize showcase illustrate describe encircle label list compare
    peak drop total
    """
)
_IRREGULAR = word_set(
    """
    sat stood lay lain held hung worn wore seen shown lit made taken built grown spread set put cut drawn written
    thrown left laid tied dressed ran ate flew kept seated situated located lined filled decorated adorned
    """
)
# Nouns more often than verbs in captions, though they look like an inflected verb.
_NOUNS = word_set(
    """
    building buildings painting paintings drawing drawings ceiling lighting clothing railing railings wing wings
    ring rings king string strings spring swing swings sign evening morning bed shed seed weed red bread thread
    reed awning awnings writing lettering marking markings opening dressing icing topping toppings stuffing earring
    earrings wedding parking crossing landing being thing things pudding duckling dumpling dumplings sibling stand
    stands line lines face faces frame frames park parks work works set sets play bow boat light lights display
    displays drop drops label labels peak peaks total tower towers point points pile piles stack stacks form cover
    covers print prints turn paint cross field watch feature features look list lists
    """
)
_FUNCTION_SUFFIX = re.compile(r"(?:[a-z]{3,}ly)\Z")
_TOKEN = re.compile(r"[A-Za-z0-9]+(?:['’-][A-Za-z0-9]+)*|[^\sA-Za-z0-9]")
_LEMMAS = {
    "men": "man",
    "women": "woman",
    "children": "child",
    "feet": "foot",
    "teeth": "tooth",
    "mice": "mouse",
    "geese": "goose",
    "oxen": "ox",
    "leaves": "leaf",
    "knives": "knife",
    "shelves": "shelf",
    "loaves": "loaf",
    "wolves": "wolf",
    "scarves": "scarf",
    "calves": "calf",
    "halves": "half",
    "axes": "axis",
    "shoes": "shoe",
    "canoes": "canoe",
    "cookies": "cookie",
    "movies": "movie",
    "ties": "tie",
    "pies": "pie",
}
_SAME = word_set(
    """
    glasses jeans pants shorts trousers scissors clothes sunglasses goggles binoculars series
    """
)


class Chunk(NamedTuple):
    """The `words` of a phrase, lower-cased, and the `lemma` of its last one."""

    words: tuple[str, ...]
    lemma: str


def rule_chunks(caption: str) -> Iterator[Chunk]:
    """Noun phrases of an English caption, in its order, with their determiners."""
    run: list[str] = []
    for token in [*_TOKEN.findall(caption), "."]:
        word = token.lower().replace("’", "'")
        determined = bool(run) and run[-1] in DETERMINERS
        if word in DETERMINERS and not (run and not determined):
            run.append(word)
        elif word in DETERMINERS:
            yield from _chunk(run)
            run = [word]
        elif _breaks(word, determined, started=bool(run)):
            yield from _chunk(run)
            run = []
        elif not _FUNCTION_SUFFIX.match(word) or word in ("family", "butterfly", "belly", "jelly", "lily", "fly"):
            run.append(word)


def _breaks(word: str, determined: bool, started: bool) -> bool:
    """Does a phrase end before this word? After a determiner a participle is an adjective ("a parked car")."""
    if not word[0].isalnum() or word in _FUNCTION or word in _BE_AND_MODALS or word in PRONOUNS:
        return True
    if determined or word in _NOUNS:
        return False
    return word in _INFLECTED or (started and word.endswith("ing"))


def _chunk(run: list[str]) -> Iterator[Chunk]:
    while run and run[-1] not in DETERMINERS and run[-1] in _INFLECTED and run[-1] not in _NOUNS and len(run) > 1:
        run = run[:-1]
    content = [word for word in run if word not in DETERMINERS]
    if content:
        yield Chunk(tuple(run), lemma(run[-1]))


def lemma(noun: str) -> str:
    """The singular of an English noun by its ending; what is not known to be plural stays."""
    noun = noun.rsplit("-", 1)[-1]
    if noun in _LEMMAS:
        return _LEMMAS[noun]
    if noun in _SAME or len(noun) < 4 or noun.endswith(("ss", "us", "is", "'s")) or not noun.endswith("s"):
        return noun
    if noun.endswith("ies"):
        return noun[:-3] + "y"
    if noun.endswith(("ches", "shes", "sses", "xes", "zes", "toes")):
        return noun[:-2]
    return noun[:-1]


def _inflections(verb: str) -> list[str]:
    third = verb + "es" if verb.endswith(("s", "x", "z", "ch", "sh", "o")) else verb + "s"
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return [verb, verb[:-1] + "ies", verb[:-1] + "ied", verb + "ing"]
    if verb.endswith("ie"):
        return [verb, third, verb + "d", verb[:-2] + "ying"]
    if verb.endswith("e") and not verb.endswith("ee"):
        return [verb, third, verb + "d", verb[:-1] + "ing"]
    doubled = verb + verb[-1]
    return [verb, third, verb + "ed", verb + "ing", doubled + "ed", doubled + "ing"]


_INFLECTED = _IRREGULAR.union(*map(_inflections, _VERBS))
