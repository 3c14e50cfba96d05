"""Which caption of a record a contrastive stage sees: `choose_caption(record, seed, shares) -> str | None`.

Sources: FineViT, stage II (captions of three captioners mixed, so that no single model's style dominates); DreamLIP
and FLAIR (long captions alone hurt short queries, so some samples show a few neighbouring sentences of one).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from typing import Any

from finecap.sentences import sentences

SUB_SENTENCES = 3  # the most sentences of a sub-caption: FLAIR
DEFAULT_SHARES: dict[str, float] = {"dense": 1.0, "short": 1.0, "sub": 1.0, "global": 1.0}

_Texts = dict[str, list[str]]  # captions by captioner


def choose_caption(record: Mapping[str, Any], seed: str, shares: Mapping[str, float] = DEFAULT_SHARES) -> str | None:
    """One caption of the picture, or None where it has none that the shares ask for.

    Kinds of captions: "global" is the record's `global_caption`; "short" and "dense" are those of its `captions` that
    have this style; "sub" is 1 to 3 neighbouring sentences, never all of them, of the global or a dense caption. A
    kind that the record lacks leaves its share to the others. The captioners of a kind are drawn evenly, however many
    captions each wrote.

    Args:
        record: a FineCap record; texts that are None or blank count as missing.
        seed: names this sample of the record, for instance "seed/epoch/index". Every choice draws from a stream of its
            own, so that a share which changes moves no other choice.
        shares: weight of each kind, see `check_shares`.

    Raises:
        ValueError: the shares are none, see `check_shares`.
    """
    check_shares(shares)
    found = {kind: texts for kind, share in shares.items() if share and (texts := _KINDS[kind](record))}
    if not found:
        return None
    # The first of several exponential clocks is each one's with odds of its rate. A clock that is missing stops no
    # other, so a record without a kind changes nothing where another kind would have been chosen anyway.
    kind = min(found, key=lambda kind: random.Random(f"{seed}/{kind}/kind").expovariate(shares[kind]))
    captioner = random.Random(f"{seed}/{kind}/captioner").choice(sorted(found[kind]))
    text = random.Random(f"{seed}/{kind}/text").choice(found[kind][captioner])
    return _sub_caption(text, random.Random(f"{seed}/sentences")) if kind == "sub" else text


def check_shares(shares: Mapping[str, float]) -> None:
    """Check the names and weights of the kinds of captions.

    Raises:
        ValueError: they are no mapping, none is above 0, a name is no kind, or a weight is negative or no number.
    """
    if not isinstance(shares, Mapping):
        raise ValueError(f"the captions are {shares!r}; expected a weight for some of {', '.join(_KINDS)}")
    for kind, share in shares.items():
        if kind not in _KINDS:
            raise ValueError(f"the captions name {kind!r}, which is no kind; expected some of {', '.join(_KINDS)}")
        if isinstance(share, bool) or not isinstance(share, int | float) or not math.isfinite(share) or share < 0:
            raise ValueError(f"captions[{kind!r}] is {share!r}; expected a number >= 0: the weight of that kind")
    if not any(shares.values()):
        raise ValueError(f"the captions are {dict(shares)}; give at least one of {', '.join(_KINDS)} a weight above 0")


def _global(record: Mapping[str, Any]) -> _Texts:
    text = (record.get("global_caption") or "").strip()
    return {record.get("captioner") or "": [text]} if text else {}


def _styled(style: str) -> Callable[[Mapping[str, Any]], _Texts]:
    def captions(record: Mapping[str, Any]) -> _Texts:
        found: _Texts = {}
        for item in record.get("captions") or []:
            if item and item["style"] == style and (text := (item["text"] or "").strip()):
                found.setdefault(item["captioner"] or "", []).append(text)
        return found

    return captions


def _divisible(record: Mapping[str, Any]) -> _Texts:
    """Global and dense captions of at least two sentences; one that is both counts once."""
    found = _styled("dense")(record)
    for captioner, texts in _global(record).items():
        found[captioner] = sorted({*found.get(captioner, []), *texts})
    longer = {captioner: [text for text in texts if len(sentences(text)) > 1] for captioner, texts in found.items()}
    return {captioner: texts for captioner, texts in longer.items() if texts}


def _sub_caption(text: str, rng: random.Random) -> str:
    parts = sentences(text)
    count = rng.randint(1, min(SUB_SENTENCES, len(parts) - 1))
    first = rng.randint(0, len(parts) - count)
    return " ".join(parts[first : first + count])


_KINDS: dict[str, Callable[[Mapping[str, Any]], _Texts]] = {
    "global": _global,
    "short": _styled("short"),
    "dense": _styled("dense"),
    "sub": _divisible,
}
