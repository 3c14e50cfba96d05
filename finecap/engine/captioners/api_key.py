"""The key of a captioner: where it comes from, and that it is in no text that is kept or shown."""

from __future__ import annotations

import os
import re

from finecap.engine.captioners.ensemble import Captioner
from finecap.errors import StopRun

# Ways to write a character: with JSON's backslashes (some servers escape twice), in a URL, in HTML.
NAMED = {"&": "amp", "<": "lt", ">": "gt", '"': "quot", "'": "apos"}
LONGEST_SPELLING = 12  # of a character that is spelled out: \\\\\\\u002f


class ApiKey:
    """A key, or none for servers without one."""

    def __init__(self, secret: str | None) -> None:
        self._secret = secret
        self._pattern = None if secret is None else re.compile("".join(map(_spellings, secret)))

    def __repr__(self) -> str:
        return "ApiKey(None)" if self._secret is None else "ApiKey([key])"

    @classmethod
    def of(cls, captioner: Captioner) -> ApiKey:
        """The key of a captioner.

        Raises:
            StopRun: its environment variable is not set, or holds what no key is.
        """
        if captioner.api_key_env is None:
            return cls(None)
        secret = os.environ.get(captioner.api_key_env, "").strip()
        if not secret or not secret.isascii() or not secret.isprintable():
            what = "holds characters that no key has" if secret else "is not set"
            raise StopRun(
                f"captioner {captioner.name}: the environment variable {captioner.api_key_env} {what}; it must hold "
                f"the key for {captioner.endpoints[0]}, in every worker"
            )
        return cls(secret)

    def headers(self) -> dict[str, str]:
        """Of a request; the only place that the key goes to."""
        return {} if self._secret is None else {"Authorization": f"Bearer {self._secret}"}

    def hidden(self, text: str, most: int) -> str:
        """At most `most` characters of a server's text, without the key, which some echo in one spelling or another,
        and without what UTF-8 cannot hold (half a surrogate pair, as JSON may).
        """
        if self._secret is not None and self._pattern is not None:
            # Only so much is searched. Its end may hold the first half of a key, so that goes as well.
            reach = LONGEST_SPELLING * len(self._secret)
            beginning = self._pattern.sub("[key]", text[: most + reach])
            text = beginning[:-reach] if len(text) > most + reach else beginning
        return text[:most].encode("utf-8", "replace").decode()


def _spellings(character: str) -> str:
    """A pattern, the longer spellings first: the shorter ones may be how they begin."""
    code = ord(character)
    ways = [rf"\\{{1,7}}u(?i:{code:04x})", f"&#0{{0,4}}{code};", f"&#[xX]0{{0,4}}(?i:{code:x});"]
    if character in NAMED:
        ways.append(f"&{NAMED[character]};")
    ways += [rf"%(?i:{code:02x})", rf"\\{{0,7}}{re.escape(character)}"]
    return f"(?:{'|'.join(ways)})"
