"""Draws fixed by a seed and a name alone: the same in any process and order, however the rows are sharded."""

from __future__ import annotations

import hashlib


def uniform(seed: int, *names: str | int) -> float:
    """A number in [0, 1), fixed by the seed and the names. Different names give independent numbers."""
    digest = hashlib.blake2b(repr((seed, *names)).encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53
