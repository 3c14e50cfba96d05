"""The "shuffled" control: every answer stands beside another question."""

import random


def another_of_each(number: int) -> list[int]:
    """For each of `number` things another one, each taken once and the same ones in every run; a single thing gets
    itself.

    They are drawn: data often repeat with some period, and a shift could meet it.
    """
    order = list(range(number))
    random.Random(0).shuffle(order)
    following = dict(zip(order, [*order[1:], *order[:1]], strict=True))
    return [following[place] for place in range(number)]
