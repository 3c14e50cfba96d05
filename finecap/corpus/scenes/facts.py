"""What is true of a scene, in sentences: how scenes look, and which things lie where."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import permutations

from finecap.corpus.caption_pair import Facts, listed, sentence
from finecap.corpus.positions import span
from finecap.corpus.scenes.placing import Placed
from finecap.corpus.scenes.referring import SIZE_MARGIN, area, is_only_one, plainly_before

SHORT_OBJECTS = 3  # the largest objects, which a short caption names

APART = (
    "A photograph fills the background.",
    "What is on it is drawn in flat colors, and nothing hides any part of it.",
)
COMMON = (
    "A photograph fills the whole picture as its background, and what it shows is not told here.",
    "In front of it are simple drawings in flat colors, of the kind that people send each other in short messages.",
    "They were put there without any order: they do not stand on the ground, they throw no shadow, and their sizes "
    "have nothing to do with the sizes of the real things.",
    "Where two of them meet, the one in front hides a part of the one behind.",
)


def facts(rng: random.Random, placed: list[Placed], described: list[str], size: tuple[int, int], apart: bool) -> Facts:
    """Facts of a scene.

    Args:
        described: each object in words, with its place.
        size: width and height in pixels.
        apart: none of its objects may hide a part of another.
    """
    largest = sorted(zip(placed, described, strict=True), key=lambda pair: -area(pair[0]) * pair[0].visible)
    objects = list(dict.fromkeys(f"There is {words}." for words in described))
    rng.shuffle(objects)
    others = [*relations(placed), *spans(placed, size), *size_facts(placed)]
    rng.shuffle(others)
    short = sentence(listed([words for _, words in largest[:SHORT_OBJECTS]]))
    return Facts(short, APART if apart else COMMON, [*objects, *others])


def relations(placed: list[Placed]) -> Iterator[str]:
    """What plainly lies left of or above what, among objects whose names fit nothing else."""
    named = [item for item in placed if is_only_one(item, placed)]
    for one, other in permutations(named, 2):
        for axis, words in ((0, "left of"), (1, "above")):
            if plainly_before(one, other, axis):
                yield f"The {one.sprite.noun} is {words} the {other.sprite.noun}."


def spans(placed: list[Placed], size: tuple[int, int]) -> Iterator[str]:
    """How far each object reaches whose name fits nothing else."""
    return (span(item.sprite.noun, item.box, size) for item in placed if is_only_one(item, placed))


def size_facts(placed: list[Placed]) -> Iterator[str]:
    """Which object is plainly the largest."""
    for item in placed:
        others = [other for other in placed if other is not item]
        if others and is_only_one(item, placed) and all(area(item) >= SIZE_MARGIN * area(other) for other in others):
            yield f"The {item.sprite.noun} is the largest thing that is drawn."
