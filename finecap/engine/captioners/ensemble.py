"""The ensemble of captioners: what each one is, and which one captions an image."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

# A key that was written into the recipe by mistake must not be repeated by the error.
CONFIG = ConfigDict(extra="forbid", hide_input_in_errors=True)
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, config=CONFIG)
class Captioner:
    """A vision-language model behind OpenAI-compatible URLs.

    Attributes:
        name: what records call it.
        model: what the servers call it.
        endpoints: base URLs, for instance "http://gpu1:8000/v1"; a request goes to the one with the fewest in flight.
        api_key_env: environment variable that holds the key; None for servers without one.
        weight: share of the images it captions, relative to the others; 0 for one that only grounds or reads.
        dollars_per_million_prompt_tokens, dollars_per_million_completion_tokens: for the budget and `--dry-run`.
        temperature: of sampling; 0.7 is Qwen3-VL's recommendation.
        timeout_s: of one request.
        max_attempts: for one request, before its image is rejected.
        patience_s: how long to wait when all endpoints are down, before the run stops.
    """

    name: str
    model: str
    endpoints: tuple[str, ...]
    api_key_env: str | None = None
    weight: float = 1.0
    dollars_per_million_prompt_tokens: float = 0.0
    dollars_per_million_completion_tokens: float = 0.0
    temperature: float = 0.7
    timeout_s: float = 120.0
    max_attempts: int = 6
    patience_s: float = 600.0

    def __post_init__(self) -> None:
        if not self.name or not self.model:
            raise ValueError("a captioner needs a name (what records call it) and a model (what its servers call it)")
        if not self.endpoints:
            raise ValueError(f"captioner {self.name}: no endpoints; write base URLs such as http://gpu1:8000/v1")
        for url in self.endpoints:
            check_url(f"captioner {self.name}: endpoint", url)
        if len(set(self.endpoints)) < len(self.endpoints):
            raise ValueError(f"captioner {self.name}: the same endpoint twice")
        if self.api_key_env is not None and not VARIABLE.fullmatch(self.api_key_env):
            raise ValueError(
                f"captioner {self.name}: api_key_env is the name of an environment variable, not the key itself"
            )
        for field in ("timeout_s", "max_attempts"):
            if not 0 < getattr(self, field) < float("inf"):
                raise ValueError(f"captioner {self.name}: {field} must be above 0, got {getattr(self, field)}")
        for field in (
            "weight",
            "dollars_per_million_prompt_tokens",
            "dollars_per_million_completion_tokens",
            "temperature",
            "patience_s",
        ):
            if not 0 <= getattr(self, field) < float("inf"):
                raise ValueError(f"captioner {self.name}: {field} must be 0 or more, got {getattr(self, field)}")


def check_url(where: str, url: str) -> None:
    """Raises ValueError, and does not repeat a password, if this is no base URL."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise ValueError(f"{where} is no URL ({error}); write a base URL such as http://gpu1:8000/v1") from None
    if "@" in parts.netloc:
        raise ValueError(f"{where} holds a user name or password, which logs would show")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{where} {url!r} is no http(s) URL; write a base URL such as http://gpu1:8000/v1")
    if parts.query or parts.fragment:
        raise ValueError(f"{where} {url!r} has a query or fragment; write a base URL such as http://gpu1:8000/v1")
    if parts.path.rstrip("/").endswith("/chat/completions"):
        raise ValueError(f"{where} {url!r}: leave /chat/completions out, it is added")


@dataclass(frozen=True, config=CONFIG)
class Budget:
    """Where a run stops; None is without limit. Tokens are prompt and completion together.

    It is overshot by at most what is in flight in all workers, and what the other workers paid in the last second.
    Tokens that a server does not tell are estimated: the prompt's from its text and the pixels of its pictures, the
    answer's from its text, or from `max_tokens` where none arrived (a time-out may be billed as well).
    """

    tokens: int | None = None
    dollars: float | None = None

    def __post_init__(self) -> None:
        for field in ("tokens", "dollars"):
            if (value := getattr(self, field)) is not None and not value >= 0:
                raise ValueError(f"budget: {field} must be 0 or more, got {value}")


def draw_captioner(captioners: Sequence[Captioner], seed: int, key: str) -> Captioner:
    """The captioner of the image `key`: a draw by weight that depends on names, weights, `seed` and `key` alone.

    Weighted rendezvous hashing: each captioner draws for itself, so when one is added, taken away or weighed anew,
    only images that it gains or loses change hands.

    Raises:
        ValueError: there is none.
    """
    drawn = [captioner for captioner in captioners if captioner.weight > 0]
    if not drawn:
        raise ValueError("the recipe has no captioners; write at least one of some weight in its section 'captioners'")
    return min(drawn, key=lambda one: (_arrival(one, seed, key), one.name))


def _arrival(captioner: Captioner, seed: int, key: str) -> float:
    """Exponential waiting time with rate `weight`: the first of several comes from each in proportion to its rate."""
    digest = hashlib.sha256(f"captioner\0{captioner.name}\0{seed}\0{key}".encode("utf-8", "surrogatepass")).digest()
    uniform = (int.from_bytes(digest[:7], "big") + 1) / (2**56 + 1)
    return -math.log(uniform) / captioner.weight
