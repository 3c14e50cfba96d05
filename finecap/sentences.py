"""Where sentences end, in any script that marks them."""

from __future__ import annotations

import re
from itertools import pairwise

_SENTENCE_END = re.compile(r"[.!?…](?=[\"'”’)\]*]*(?:\s|$))[\"'”’)\]*]*|[。！？][”’」』）]*")
ABBREVIATION = len("approx.")  # the longest of these
_ABBREVIATION = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|St|No|vs|approx|e\.g|i\.e|[A-Z])\.$")


def sentence_ends(text: str) -> list[int]:
    """Positions behind the last mark of each sentence; the dot of a common abbreviation ends none."""
    ends = (match.end() for match in _SENTENCE_END.finditer(text))
    return [end for end in ends if not _ABBREVIATION.search(text, max(0, end - ABBREVIATION), end)]


def sentences(text: str) -> list[str]:
    """The sentences of a text without white space around them; what follows the last mark is one as well."""
    parts = (text[start:end].strip() for start, end in pairwise([0, *sentence_ends(text), len(text)]))
    return [part for part in parts if part]
