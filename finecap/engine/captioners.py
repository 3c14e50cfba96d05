"""The ensemble of captioners: what each one is, and which one captions an image."""

from __future__ import annotations

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

CONFIG = ConfigDict(extra="forbid")


@dataclass(frozen=True, config=CONFIG)
class Captioner:
    """A vision-language model behind OpenAI-compatible URLs.

    Attributes:
        name: what records call it.
        model: what the servers call it.
        endpoints: base URLs, for instance "http://gpu1:8000/v1"; a request goes to the one with the fewest in flight.
        api_key_env: environment variable that holds the key; None for servers without one.
        weight: share of the images it captions, relative to the others.
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


@dataclass(frozen=True, config=CONFIG)
class Budget:
    """Where a run stops; None is without limit. Tokens are prompt and completion together."""

    tokens: int | None = None
    dollars: float | None = None
