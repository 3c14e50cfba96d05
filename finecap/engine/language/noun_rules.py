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
_COPULAS = word_set("is are was were be been being am seem seems appear appears look looks become becomes")
_AUXILIARIES = word_set(
    """
    has have had having do does did can could may might must shall should will would isn't aren't doesn't don't
    can't
    """
)
# Words that captions use as verbs alone, and those that are nouns as well.
_VERBS = word_set(
    """
    add adorn allow arrange attach be bear belong blend bring build buy carry cast catch chase chew climb cling
    come consist contain convey create dangle depict direct dominate draw eat emerge enhance enjoy evoke exude fall
    feature feed fill flank float flow fly follow gaze give glow go grasp cost graze grow hang highlight hold
    illuminate include indicate interact keep lay lead lean lie live make merge moor mount move occupy offer
    overlook perch pose provide pull push put reach read reflect relax represent resemble reveal ride rise say
    scatter sell serve shine show sit sleep spread stare start stay suggest support surround swim take talk throw
    tie travel try use visit wait walk wear write connect complement emphasize showcase illustrate describe
    encircle compare decorate cut load prepare approach cook hover separate speak stretch bend kneel crouch hug
    greet tilt adjust examine inspect dry gather
    """
)
_NOUNS_TOO = word_set(
    """
    balance blur capture circle contrast cover cross display dress drift drop face form frame guard hand head jump
    kick label light line list load mark mix open paint park peak photograph pile place plant play point position
    print raise rest run sail set slide smile smoke span splash stack stand stop swing title total touch tower turn
    view watch water wave work block label drink fish fly lift race roll rock sign spray type wrap
    """
)
_IRREGULAR = word_set(
    """
    sat stood lay lain held hung worn wore seen shown lit made taken built grown spread put cut drawn written
    thrown laid tied dressed ran ate flew kept seated situated located lined filled decorated adorned titled
    photographed
    """
)
# Nouns and adjectives that look like an inflected verb.
_NO_VERBS = word_set(
    """
    building buildings painting paintings drawing drawings ceiling lighting clothing railing railings wing wings
    ring rings king string strings spring evening morning bed shed seed weed red bread thread reed awning awnings
    writing lettering marking markings opening dressing icing topping toppings stuffing earring earrings wedding
    parking crossing landing thing things pudding duckling dumpling dumplings sibling leaves
    """
)
_PLURAL_MODIFIERS = word_set("sports arms goods clothes stairs antiques news")
_SINGULAR = word_set("a an one each every this that another")
_LIKE_ADVERBS = word_set("family butterfly dragonfly belly jelly lily fly doily holly ally bully fully")
_ADVERB = re.compile(r"[a-z]{3,}ly\Z")
_TOKEN = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*|\S")
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
    predicate = False  # nothing but a copula came before: "is half full" is no noun phrase
    for token in [*_TOKEN.findall(caption), "."]:
        word = token.lower().replace("’", "'")
        if word in DETERMINERS:
            if run and run[-1] not in DETERMINERS:
                yield from _chunk(run, predicate)
                run, predicate = [], False
            run.append(word)
        elif _breaks(word, run, predicate):
            yield from _chunk(run, predicate)
            run, predicate = [], word in _COPULAS or (predicate and not run)
        elif not _ADVERB.match(word) or word in _LIKE_ADVERBS or (run and run[-1] in DETERMINERS):
            run.append(word)


def _breaks(word: str, run: list[str], predicate: bool) -> bool:
    """Does a phrase end before this word? After a determiner a participle is an adjective ("a parked car")."""
    if not word[0].isalnum() or word in _CLOSED:
        return True
    if (
        run
        and (run[-1] in DETERMINERS or _ADVERB.match(run[-1]))
        and not (run[-1] in ("that", "which") and word in _VERB_FORMS)
    ):
        return False
    if word in _NO_VERBS:
        return False
    if word in _VERB_FORMS or (word.endswith("ing") and (run or predicate)):
        return True
    if len(run) > 1 and run[0] in ("a", "an") and lemma(word) != word and word not in _PLURAL_MODIFIERS:
        return True  # "a woman ... overtakes": the head of such a phrase is no plural
    return word in _NOUN_VERB_FORMS and _agrees(word, run, predicate)


def _agrees(word: str, run: list[str], predicate: bool) -> bool:
    """Is a word that may be noun or verb a verb here? "A man hands", "trees line", "is covered", "covered with"."""
    if word.endswith("ed"):
        return True
    if not run or predicate:
        return word.endswith("ing")
    if word.endswith("s") and word not in _NOUNS_TOO:
        return run[0] in _SINGULAR or lemma(run[-1]) != run[-1]
    return lemma(run[-1]) != run[-1]


def _chunk(run: list[str], predicate: bool) -> Iterator[Chunk]:
    content = [word for word in run if word not in DETERMINERS]
    if content and not (predicate and run == content and lemma(run[-1]) == run[-1]):
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


_VERB_FORMS = _IRREGULAR.union(*map(_inflections, _VERBS))
_NOUN_VERB_FORMS = frozenset[str]().union(*map(_inflections, _NOUNS_TOO))
_CLOSED = _FUNCTION | _COPULAS | _AUXILIARIES | PRONOUNS
