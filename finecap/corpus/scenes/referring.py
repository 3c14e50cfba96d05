"""Referring expressions that fit exactly one object by construction, and questions about a scene.

An expression is kept only if the target fits it clearly and no other object fits it even loosely: a comparison
(larger, further left) needs a margin that a person would see, so that nobody could call it the other way round.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import product

from finecap.corpus.levels import SceneLevel
from finecap.corpus.scenes.placing import Placed
from finecap.records import QA, grounding_answer

SIZE_MARGIN = 1.6  # ratio of areas from which one object is plainly the larger of two
NUMBER_WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def article(name: str) -> str:
    """The name with its indefinite article."""
    return f"{'an' if name[0] in 'aeio' or name.startswith('umbrella') else 'a'} {name}"


def could_be_called(item: Placed, noun: str) -> bool:
    """Whether a person might use the noun for the object: a teddy bear is a bear, a rooster may pass for a chicken."""
    own = item.sprite.noun
    return own == noun or own.endswith(f" {noun}") or {own, noun} == {"chicken", "rooster"}


def could_have_color(item: Placed, color: str) -> bool:
    """Whether the colour might fit: an object without a certain colour might have any."""
    return item.sprite.color in (None, color)


def center(item: Placed) -> tuple[float, float]:
    """Centre of the visible box in pixels."""
    return (item.box[0] + item.box[2]) / 2, (item.box[1] + item.box[3]) / 2


def area(item: Placed) -> int:
    """Area in square pixels of the box of the whole object, hidden parts included: what a person takes for its
    size.
    """
    return item.width * item.height


def plainly_before(item: Placed, other: Placed, axis: int) -> bool:
    """Whether the object lies clearly left of (axis 0) or above (axis 1) the other one: its centre is further by half
    of the larger extent, and that direction is the main one between the two.
    """
    delta = [center(other)[k] - center(item)[k] for k in (0, 1)]
    extent = max(box[axis + 2] - box[axis] for box in (item.box, other.box))
    return delta[axis] >= extent / 2 and delta[axis] >= abs(delta[1 - axis])


def expressions(target: Placed, placed: list[Placed]) -> list[str]:
    """All expressions of the grammar that fit the target and nothing else, the simplest first."""
    noun, color = target.sprite.noun, target.sprite.color
    alike = [item for item in placed if item is not target and could_be_called(item, noun)]
    if not alike:
        return [f"the {noun}", *([f"the {color} {noun}"] if color else [])]
    found = []
    if color and not any(could_have_color(item, color) for item in alike):
        found.append(f"the {color} {noun}")
    rest = "on the {}" if len(alike) == 1 else "furthest to the {}"
    for axis, words in ((0, ("left", "right")), (1, ("top", "bottom"))):
        phrase = rest if axis == 0 else "at the {}" if len(alike) == 1 else "nearest to the {}"
        if all(plainly_before(target, item, axis) for item in alike):
            found.append(f"the {noun} {phrase.format(words[0])}")
        elif all(plainly_before(item, target, axis) for item in alike):
            found.append(f"the {noun} {phrase.format(words[1])}")
    degree = ("larger", "smaller") if len(alike) == 1 else ("largest", "smallest")
    if all(area(target) >= SIZE_MARGIN * area(item) for item in alike):
        found.append(f"the {degree[0]} {noun}")
    elif all(SIZE_MARGIN * area(target) <= area(item) for item in alike):
        found.append(f"the {degree[1]} {noun}")
    return found + relational(target, alike, placed)


def relational(target: Placed, alike: list[Placed], placed: list[Placed]) -> list[str]:
    """ "the cat left of the tree", where there is one tree and no other cat is even loosely left of it."""
    found = []
    for anchor in placed:
        if anchor is target or anchor in alike or not is_only_one(anchor, placed):
            continue
        for axis, words in ((0, ("left of", "right of")), (1, ("above", "below"))):
            if plainly_before(target, anchor, axis) and all(
                center(item)[axis] > center(anchor)[axis] for item in alike
            ):
                found.append(f"the {target.sprite.noun} {words[0]} the {anchor.sprite.noun}")
            if plainly_before(anchor, target, axis) and all(
                center(item)[axis] < center(anchor)[axis] for item in alike
            ):
                found.append(f"the {target.sprite.noun} {words[1]} the {anchor.sprite.noun}")
    return found


def is_only_one(item: Placed, placed: list[Placed]) -> bool:
    """Whether the bare noun already singles the object out."""
    return not any(other is not item and could_be_called(other, item.sprite.noun) for other in placed)


def questions(rng: random.Random, level: SceneLevel, placed: list[Placed]) -> list[QA]:
    """Grounding questions about different objects, then `level.extra_questions` about attributes, counts and
    relations.
    """
    found: list[QA] = []
    for item in rng.sample(placed, len(placed)):
        options = expressions(item, placed)
        if options and len(found) < level.questions:
            found.append(
                {"question": rng.choice(options), "answers": [grounding_answer(item.box)], "kind": "grounding"}
            )
    makers: list[Callable[[random.Random, list[Placed]], QA | None]] = [attribute, count, relation]
    extra = [rng.choice(makers)(rng, placed) for _ in range(level.extra_questions)]
    unique = {item["question"]: item for item in extra if item is not None}
    return found + list(unique.values())


def attribute(rng: random.Random, placed: list[Placed]) -> QA | None:
    """The colour of an object that is the only one of its name."""
    known = [item for item in placed if item.sprite.color and is_only_one(item, placed)]
    if not known:
        return None
    item = rng.choice(known)
    answer = str(item.sprite.color)
    return {"question": f"What color is the {item.sprite.noun}?", "answers": [answer], "kind": "attribute"}


def count(rng: random.Random, placed: list[Placed]) -> QA | None:
    """How many objects of a name there are."""
    noun = rng.choice(placed).sprite.noun
    number = sum(could_be_called(item, noun) for item in placed)
    exact = sum(item.sprite.noun == noun for item in placed)
    if number != exact:
        return None
    question = f"How many pictures of {article(noun)} are there?"
    return {"question": question, "answers": [str(number), NUMBER_WORDS[number]], "kind": "count"}


def relation(rng: random.Random, placed: list[Placed]) -> QA | None:
    """What lies left of, right of, above or below an object, where exactly one thing plainly does and nothing else
    might.
    """
    anchors = [item for item in placed if is_only_one(item, placed)]
    options = []
    for anchor, axis in product(anchors, (0, 1)):
        others = [item for item in placed if item is not anchor]
        before = [item for item in others if center(item)[axis] < center(anchor)[axis]]
        after = [item for item in others if center(item)[axis] > center(anchor)[axis]]
        words = ("to the left of", "to the right of") if axis == 0 else ("above", "below")
        if len(before) == 1 and plainly_before(before[0], anchor, axis):
            options.append((words[0], anchor, before[0]))
        if len(after) == 1 and plainly_before(anchor, after[0], axis):
            options.append((words[1], anchor, after[0]))
    if not options:
        return None
    word, anchor, found = rng.choice(options)
    return {
        "question": f"What is {word} the {anchor.sprite.noun}?",
        "answers": [found.sprite.noun],
        "kind": "relation",
    }
