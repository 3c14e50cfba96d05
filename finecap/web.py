"""HTTP with servers that are slow, gone, lying or hostile: what captioners, detectors and fetched links share."""

from __future__ import annotations

import asyncio
import random
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import aiohttp

# The wait before try n+1 is drawn from 0 to FIRST_WAIT * 2^n seconds ("full jitter": AWS Architecture Blog,
# "Exponential Backoff And Jitter", 2015).
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0
CONNECT_SECONDS = 15.0
CHUNK = 2**16
# No answer of a model is longer: 4096 tokens that JSON escapes are a quarter of a megabyte.
MAX_ANSWER_BYTES = 4 * 2**20
# Too many requests, or a proxy whose server is down, too slow or has too much to do (521 to 524 are Cloudflare's, 529
# is Anthropic's "overloaded"): nothing is wrong with the request itself.
UNSEEN = frozenset({429, 502, 503, 504, 521, 522, 523, 524, 529})
# Too slow, in conflict with another request, too early, too many; from 500 on, everything.
NOT_NOW = frozenset({408, 409, 425, 429})
# Of `UNSEEN`: the proxy gave up on a server that was at work on the request, which may be billed.
GATEWAY_TIMEOUTS = frozenset({504, 524})


def may_pass(status: int) -> bool:
    """Whether another try of the same request may fare better after an answer with this status."""
    return status in NOT_NOW or status >= 500


def session(connector: aiohttp.TCPConnector | None = None) -> aiohttp.ClientSession:
    """A session that keeps no cookies, asks for no compression and unfolds nothing: a small body could unfold to any
    size.
    """
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        headers={"Accept-Encoding": "identity", "User-Agent": "finecap"},
    )


def timeout(seconds: float) -> aiohttp.ClientTimeout:
    """For a whole request; who does not even take the connection is given up sooner."""
    return aiohttp.ClientTimeout(total=seconds, sock_connect=min(CONNECT_SECONDS, seconds))


def is_unconnected(error: Exception) -> bool:
    """Did the request reach no server at all (no such name, nobody listens, no route)?"""
    return isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)


class BodyTooLarge(Exception):
    """A body is longer than allowed."""


async def read_body(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    """The body as it came over the line; no more than `max_bytes` and a chunk are ever held.

    Raises:
        BodyTooLarge: as soon as that is known.
    """
    if (response.content_length or 0) > max_bytes:
        raise BodyTooLarge
    parts, size = [], 0
    async for part in response.content.iter_chunked(CHUNK):
        parts.append(part)
        size += len(part)
        if size > max_bytes:
            raise BodyTooLarge
    return b"".join(parts)


async def read_answer(response: aiohttp.ClientResponse) -> bytes:
    """The body of a model's answer; one that a proxy compressed unasked is unfolded, up to the same limit.

    Raises:
        BodyTooLarge: it is longer than `MAX_ANSWER_BYTES`, as it came or unfolded.
    """
    body = await read_body(response, MAX_ANSWER_BYTES)
    if response.headers.get("Content-Encoding", "").lower() not in ("gzip", "x-gzip", "deflate"):
        return body
    try:
        unfolded = zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(body, MAX_ANSWER_BYTES + 1)
    except zlib.error:
        return body  # not what the header says; whoever reads it will say so
    if len(unfolded) > MAX_ANSWER_BYTES:
        raise BodyTooLarge
    return unfolded


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, from a number or a date."""
    value = headers.get("Retry-After", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


@dataclass
class Tries:
    """The tries of one request.

    Attributes:
        most: tries that a server worked on before the request has failed for good.
        patience_s: seconds that it may go unseen, try after try, before it has failed for good.
    """

    most: int
    patience_s: float
    done: int = 0
    waits: int = 0
    unseen_since: float | None = None

    def failed(self, unseen: bool) -> str | None:
        """Count a failure. If it was the last one, how long it was tried: "6 tries" or "for 600 s".

        Args:
            unseen: no server worked on it.
        """
        now = time.monotonic()
        if unseen:
            self.unseen_since = now if self.unseen_since is None else self.unseen_since
            return f"for {self.patience_s:g} s" if now - self.unseen_since >= self.patience_s else None
        self.unseen_since = None
        self.done += 1
        return f"{self.done} tries" if self.done >= self.most else None

    async def wait(self, least: float | None = None) -> None:
        """Before the next try, with full jitter.

        Args:
            least: seconds that the server asks for; more than `LONGEST_WAIT` it does not get.
        """
        jitter = random.uniform(0, min(LONGEST_WAIT, FIRST_WAIT * 2 ** min(self.waits, 16)))
        await asyncio.sleep(max(jitter, min(least or 0.0, LONGEST_WAIT)))
        self.waits += 1
