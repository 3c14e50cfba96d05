"""The endpoints of one captioner: which gets the next request, and which are left alone because they are down."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from finecap.errors import StopRun

# Failures in a row, with no answer between them, after which an endpoint is left alone.
FAILURES_TO_OPEN = 5
# Seconds it is left alone the first time, and at most; the pause doubles with each probe that fails.
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
_log = logging.getLogger(__name__)


@dataclass
class Endpoint:
    """One base URL as this process sees it.

    Attributes:
        in_flight: requests under way.
        failures: in a row; what an answer of any kind from the server sets back.
        opened: how often in a row the breaker opened; 0 while it is closed.
        resume: when it may be asked again (of `time.monotonic`).
        probing: the one request that finds out whether it is back is under way.
        turn: when it was asked last, counted in requests.
        last_error: for messages.
    """

    url: str
    in_flight: int = 0
    failures: int = 0
    opened: int = 0
    resume: float = 0.0
    probing: bool = False
    turn: int = 0
    last_error: str = ""


class Endpoints:
    """Least-in-flight routing with a circuit breaker for each endpoint, for use in one event loop.

    The counts are those of this process: several workers balance each for itself, which evens out.
    """

    def __init__(
        self, captioner: str, urls: Sequence[str], patience_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.all = [Endpoint(url.rstrip("/")) for url in urls]
        self._captioner = captioner
        self._patience = patience_s
        self._clock = clock
        self._turns = 0
        self._changed = asyncio.Event()
        self._last_answer = clock()
        self._down_since: float | None = None

    @asynccontextmanager
    async def place(self, avoid: Endpoint | None = None) -> AsyncGenerator[Endpoint]:
        """The endpoint for one request, counted as in flight inside the block; waits for one if all are down.

        Args:
            avoid: where this request failed before; taken only when there is no other.

        Raises:
            StopRun: all have been down for `patience_s`; names them and their last errors.
        """
        while (endpoint := self._pick(avoid)) is None:
            await self._wait()
        endpoint.probing = bool(endpoint.opened)
        probe = endpoint.probing
        endpoint.in_flight += 1
        self._turns += 1
        endpoint.turn = self._turns
        try:
            yield endpoint
        finally:
            endpoint.in_flight -= 1
            if probe:
                endpoint.probing = False
            self._wake()

    def answered(self, endpoint: Endpoint) -> None:
        """The server is alive, whatever it said: closes the breaker."""
        if endpoint.opened:
            endpoint.resume = self._clock()
        endpoint.failures = endpoint.opened = 0
        self._down_since = None

    def succeeded(self, endpoint: Endpoint) -> None:
        """It gave a good answer."""
        self.answered(endpoint)
        self._last_answer = self._clock()

    def failed(self, endpoint: Endpoint, error: str) -> None:
        """The endpoint as a whole seems to be down (no connection, time-out, 5xx): opens the breaker after a few."""
        endpoint.failures += 1
        endpoint.last_error = error
        # Requests that were under way when the breaker opened fail after it; only the probe makes the pause longer.
        if endpoint.probing or (not endpoint.opened and endpoint.failures >= FAILURES_TO_OPEN):
            endpoint.opened += 1
            pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (endpoint.opened - 1))
            # No sooner than it asked to be left alone for (`rest`).
            endpoint.resume = max(endpoint.resume, self._clock() + pause * random.uniform(0.5, 1.0))
        if self._down_since is None and all(one.opened for one in self.all):
            self._down_since = self._clock()
            # Of a wrong URL nothing else would be seen until the run stops.
            _log.warning(
                "captioner %s: no endpoint answers: %s; waiting up to %g s",
                self._captioner,
                self.describe(),
                self._patience,
            )

    def rest(self, endpoint: Endpoint, seconds: float, error: str) -> None:
        """It asked to be left alone for a while (Retry-After)."""
        endpoint.last_error = error
        endpoint.resume = max(endpoint.resume, self._clock() + min(seconds, self._patience))

    def silent(self) -> bool:
        """Whether no endpoint gave a good answer for all of `patience_s`."""
        return self._clock() - self._last_answer >= self._patience

    def describe(self) -> str:
        """URLs and what each said last."""
        return "; ".join(f"{one.url} ({one.last_error or 'no error'})" for one in self.all)

    def _pick(self, avoid: Endpoint | None) -> Endpoint | None:
        now = self._clock()
        free = [one for one in self.all if one.resume <= now and not one.probing]
        others = [one for one in free if one is not avoid]
        # An endpoint that is back from a pause comes first: one request, which is repeated elsewhere if it fails.
        return min(others or free, key=lambda one: (not one.opened, one.in_flight, one.turn), default=None)

    async def _wait(self) -> None:
        now = self._clock()
        if self._down_since is not None and now - self._down_since >= self._patience:
            raise StopRun(
                f"captioner {self._captioner}: no endpoint answered for {self._patience:g} s: {self.describe()}. "
                "Start the servers or correct `endpoints`, then run the same command again."
            )
        times = [one.resume for one in self.all if not one.probing]
        if self._down_since is not None:
            times.append(self._down_since + self._patience)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), max(0.0, min(times) - now) + 0.001 if times else None)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
