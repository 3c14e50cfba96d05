"""Where randomness and held-out items come from: pure functions of strings, the same on every machine and for every
worker count.
"""

from __future__ import annotations

import functools
import hashlib
import random

from finecap.shards.layout import SPLITS

# Share of the value space (answer strings, label-value pairs, arrangements, drawings) that each split owns.
# How many rows a split gets is a separate choice of the build.
VALUE_SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}


def rng_for(kind: str, index: int, seed: int, split: str, difficulty: str) -> random.Random:
    """The random stream of one record; it depends on nothing but its arguments."""
    return random.Random(f"{seed}|{difficulty}|{kind}|{split}|{index}")


@functools.lru_cache(maxsize=65536)
def split_of(namespace: str, key: str) -> str:
    """The split that owns `key`, from a hash and so independent of the seed: what is held out stays held out in every
    corpus.
    """
    digest = hashlib.blake2b(f"{namespace}|{key}".encode(), digest_size=8).digest()
    position = int.from_bytes(digest, "big") / 2**64
    edge = 0.0
    for split in SPLITS:
        edge += VALUE_SHARES[split]
        if position < edge:
            return split
    return SPLITS[-1]
