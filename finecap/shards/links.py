"""Pictures that an input links to: what fails for a while is tried again; an outage is waited out, or stops the run.

A link is given up for itself only while others are served: a dead link looks just like a network that is down. So when
its tries are used up, one link is fetched again that was answered before: of the same host, if any was, else of
another. If that is answered, the link has one more try. If it is not, everybody waits, and after `patience_s` without
any answer the run stops. A process that has seen no answer at all waits likewise.
"""

from __future__ import annotations

import asyncio
import time
from urllib.parse import urlsplit

from finecap.errors import StopRun
from finecap.shards.fetch import Allowed, FetchError, fetch_image, is_public
from finecap.web import Tries

# Tries of a link before others are looked at, and seconds without any answer before the run stops.
MAX_ATTEMPTS, PATIENCE_S = 5, 600.0
# Hosts that are remembered, and seconds that a look at one of them counts for all its links.
MOST_HOSTS, LOOK_SECONDS = 10_000, 10.0


class Links:
    """What a worker process knows of the hosts behind links. For use in one event loop at a time."""

    def __init__(self, patience_s: float = PATIENCE_S, allowed: Allowed = is_public) -> None:
        self._patience, self._allowed = patience_s, allowed
        self._answered: dict[str, tuple[str, float]] = {}  # of each host a link that was answered, and when last
        self._looking = asyncio.Lock()

    async def fetch(self, url: str, max_bytes: int) -> bytes:
        """The bytes behind a link.

        Args:
            max_bytes: longer bodies are refused.

        Raises:
            FetchError: see `fetch_image`; also after all tries.
            StopRun: nothing answers, for `patience_s`.
        """
        tries, start = Tries(MAX_ATTEMPTS, self._patience), time.monotonic()
        others_are_served = False
        while True:
            try:
                data = await fetch_image(url, max_bytes, allowed=self._allowed)
            except FetchError as error:
                if not error.transient:
                    if error.answered:
                        self._remember(url)
                    raise
                failure = error
            else:
                self._remember(url)
                return data
            if others_are_served:  # and were before this last try, so it is no outage that has just ended
                raise failure
            if tries.failed(unseen=False):
                others_are_served = await self._are_others_served(url, start, max_bytes)
            self._check_patience(url, failure, start)
            await tries.wait(failure.retry_after)

    async def _are_others_served(self, url: str, start: float, max_bytes: int) -> bool:
        """Is a link of the same host answered, or if none ever was, of another, while this one is not?"""
        async with self._looking:  # one look for all that wait
            if not self._answered:
                return False
            latest = next(reversed(self._answered.values()))
            other, when = self._answered.get(_host(url), latest)
            if other == url:  # it was answered before, and is itself what fails now
                return False
            if when > max(start, time.monotonic() - LOOK_SECONDS):
                return True
            try:
                await fetch_image(other, max_bytes, allowed=self._allowed)
            except FetchError as error:
                if error.transient:
                    return False
            self._remember(other)
            return True

    def _remember(self, url: str) -> None:
        host = _host(url)
        self._answered.pop(host, None)
        self._answered[host] = url, time.monotonic()
        if len(self._answered) > MOST_HOSTS:
            del self._answered[next(iter(self._answered))]

    def _check_patience(self, url: str, failure: FetchError, start: float) -> None:
        host = _host(url)
        last = max(start, self._answered.get(host, ("", start))[1])
        if time.monotonic() - last >= self._patience:
            raise StopRun(
                f"ingest.allow_urls: nothing came from {host[:100]} for {self._patience:g} s ({failure}). This may be "
                "an outage: the host was there before, or no other link is answered either. Run the same command "
                "again when it is over; take links that are gone for good out of the input."
            )


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
