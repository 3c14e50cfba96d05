"""Which known name a misspelt one was likely meant to be."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

# Of 0 to 1 (`difflib`): "nano_cpu" is like "sft/nano_cpu" by 0.8, "lerning_rate" like "learning_rate" by 0.96.
ALIKE = 0.7


def did_you_mean(given: str | Iterable[str], known: Iterable[str]) -> str:
    """For the end of a message about unknown names: "; did you mean a, b?", or "" if nothing is spelt alike."""
    names, words = list(known), [given] if isinstance(given, str) else given
    alike = (get_close_matches(word, names, 1, ALIKE) for word in words)
    found = list(dict.fromkeys(names[0] for names in alike if names))
    return f"; did you mean {', '.join(found)}?" if found else ""
