"""Short and dense captions of a generated picture, made of sentences that are exactly true of it.

Whether 256 tokens of text are worth more than 64 shows only where what tells pictures apart stands behind the 64th:
FineViT, stage II; Long-CLIP; LoTLIP. So a dense caption is made of two groups of sentences: `common` ones, true of
most pictures of a kind, and `own` ones, which tell this picture from others.
"""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from finecap.records import Caption

# Words, single digits and signs: what tokenizers that know all common words (Qwen's, Gemma's) make of plain English.
# A name or a rare word is more than one token to them, so this counts a little low.
_TOKEN = re.compile(r"[^\W\d_]+|\d|[^\w\s]")


@dataclass(frozen=True)
class Facts:
    """What is true of a picture, in sentences. `short`: one that names the picture's kind and what stands out most;
    `own`: the most important first.
    """

    short: str
    common: Sequence[str]
    own: Sequence[str]


def captions(rng: random.Random, facts: Facts, captioner: str, split: str, limit: int) -> list[Caption]:
    """A short and a dense caption.

    The own facts of a dense caption stand before the common ones, among them, or behind them, drawn evenly; in splits
    that are held out always behind them, which is the case that a short text tower cannot answer.

    Args:
        rng: a stream for captions alone, so that they change nothing else of a record.
        captioner: the generator.
        limit: most tokens of a dense caption (see `count_tokens`); own facts that do not fit are left out.
    """
    left = limit - sum(map(count_tokens, facts.common))
    own: list[str] = []
    for fact in facts.own:
        tokens = count_tokens(fact)
        if tokens <= left:
            own.append(fact)
            left -= tokens
    common = list(facts.common)
    place = rng.choice(("before", "among", "behind")) if split == "train" else "behind"
    ordered = own + common if place == "before" else common + own
    if place == "among":
        rng.shuffle(ordered)
    return [
        {"style": "short", "text": facts.short, "captioner": captioner},
        {"style": "dense", "text": " ".join(ordered), "captioner": captioner},
    ]


@functools.lru_cache(maxsize=1024)  # the common sentences are always the same ones
def count_tokens(text: str) -> int:
    """Words, digits and signs of a text."""
    return len(_TOKEN.findall(text))


def listed(items: Sequence[str]) -> str:
    """Several items in words: "one, another and a third"."""
    return " and ".join(filter(None, [", ".join(items[:-1]), items[-1]]))


def sentence(text: str) -> str:
    """The words with a capital letter before them and a full stop behind."""
    return f"{text[0].upper()}{text[1:]}."
