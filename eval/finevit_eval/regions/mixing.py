"""Draws by a seed: samples of a limited run, and the "shuffled" control: answers beside other questions."""

import random
from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


def draw(items: Sequence[Item], limit: int | None, seed: int) -> list[Item]:
    """At most `limit` items, drawn with `seed`, in their order."""
    if limit is None or limit >= len(items):
        return list(items)
    return [items[place] for place in sorted(random.Random(seed).sample(range(len(items)), limit))]


def another_of_each(number: int) -> list[int]:
    """For each of `number` things another one, each taken once and the same ones in every run; a single thing gets
    itself.

    They are drawn: data often repeat with some period, and a shift could meet it.
    """
    order = list(range(number))
    random.Random(0).shuffle(order)
    following = dict(zip(order, [*order[1:], *order[:1]], strict=True))
    return [following[place] for place in range(number)]
