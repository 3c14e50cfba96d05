"""Fetching a picture that the input only links to, without ever reaching into a private network.

Links in a data set are untrusted. A fetch from inside a cluster could otherwise read what only the cluster may:
other machines, or the metadata service that hands out credentials (server-side request forgery).
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from finecap import web

MAX_REDIRECTS = 5
# What IANA has given out of IPv6. All else, also the ways to write an IPv4 address as IPv6, is refused, except
# NAT64 (RFC 6052), through which networks without IPv4 reach the rest.
UNICAST = ipaddress.IPv6Network("2000::/3")
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# What `ipaddress` of some Python calls global, and is not: Azure's platform (WireServer, which hands out credentials);
# IETF protocol assignments, of which Oracle's cloud has a metadata service at .192; relays of the old 6to4.
NEVER_PUBLIC = tuple(map(ipaddress.IPv4Network, ("168.63.129.16/32", "192.0.0.0/24", "192.88.99.0/24")))

Allowed = Callable[[str], bool]


class FetchError(ValueError):
    """A picture that could not be fetched; the text is "kind: detail", fit for `reject`, and holds no query string.

    Attributes:
        transient: another try may fare better (no connection, a time-out, 429, 5xx).
        answered: a server was reached, and what it said about the link is final.
        retry_after: seconds that the server asks to be left alone.
    """

    def __init__(
        self, text: str, transient: bool = False, answered: bool = False, retry_after: float | None = None
    ) -> None:
        super().__init__(text)
        self.transient, self.answered, self.retry_after = transient, answered, retry_after


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public Internet, and so does the IPv4 address that it stands for, if any.

    Anything that is not an IP address in its usual spelling ("2130706433", "0x7f.1") is not.
    """
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        if ip in NAT64:
            return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
        if ip not in UNICAST or (ip.sixtofour and not is_public(str(ip.sixtofour))):
            return False
    elif any(ip in network for network in NEVER_PUBLIC):
        return False
    # `is_global` holds for most of multicast.
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


async def fetch_image(url: str, max_bytes: int, timeout_s: float = 30.0, allowed: Allowed = is_public) -> bytes:
    """The bytes behind a link.

    The check is made on the very address that is connected to, for every redirect again, so a name that answers
    differently the second time gains nothing. Proxies, cookies, `.netrc` and credentials in links are not used.

    Args:
        max_bytes: longer bodies are refused as soon as that is known.
        timeout_s: of the whole fetch with its redirects.
        allowed: says of an IP address whether it may be connected to.

    Raises:
        FetchError: "url refused", "fetch failed" or "too large", with details.
    """
    try:
        async with asyncio.timeout(timeout_s), _session(allowed) as session:
            return await _follow(session, url, max_bytes, web.timeout(timeout_s))
    except FetchError:
        raise
    except TimeoutError:
        raise FetchError(f"fetch failed: nothing complete within {timeout_s:g} s", transient=True) from None
    except aiohttp.InvalidURL:
        raise FetchError("url refused: no valid link") from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        passes = isinstance(error, aiohttp.ClientError | OSError)
        raise FetchError(f"fetch failed: {type(error).__name__}", transient=passes) from error


def _session(allowed: Allowed) -> aiohttp.ClientSession:
    def checked_socket(info: tuple) -> socket.socket:
        family, kind, protocol, _, address = info
        _check(address[0], allowed)
        return socket.socket(family, kind, protocol)

    connector = aiohttp.TCPConnector(
        resolver=_Resolver(allowed), use_dns_cache=False, force_close=True, socket_factory=checked_socket
    )
    return web.session(connector)


class _Resolver(AbstractResolver):
    """Names whose addresses are all allowed. Literal addresses do not come here, but all pass `checked_socket`."""

    def __init__(self, allowed: Allowed) -> None:
        self._allowed = allowed

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await aiohttp.ThreadedResolver().resolve(host, port, family)
        for one in found:
            _check(one["host"], self._allowed)
        return found

    async def close(self) -> None:
        """Nothing is held."""


def _check(address: str, allowed: Allowed) -> None:
    if not allowed(address):
        raise FetchError(f"url refused: {address} is no public address")


async def _follow(session: aiohttp.ClientSession, url: str, max_bytes: int, timeout: aiohttp.ClientTimeout) -> bytes:
    """Redirects are followed by hand, so that each link is checked."""
    here = _checked_link(URL(url))
    for _ in range(MAX_REDIRECTS + 1):
        async with session.get(here, allow_redirects=False, timeout=timeout) as response:
            if response.status not in (301, 302, 303, 307, 308):
                return await _read(response, max_bytes)
            there = _checked_link(here.join(URL(response.headers.get("Location", ""))))
        if here.scheme == "https" and there.scheme == "http":
            raise FetchError("url refused: it redirects from https to http")
        here = there
    raise FetchError(f"fetch failed: more than {MAX_REDIRECTS} redirects", answered=True)


def _checked_link(url: URL) -> URL:
    if url.scheme not in ("http", "https") or not url.host:
        raise FetchError(f"url refused: {url.scheme[:20] or 'no'} scheme, expected http or https")
    if url.user is not None or url.password is not None:
        raise FetchError("url refused: it holds a user name or password")
    return url


async def _read(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    if response.status != 200:
        passes = web.may_pass(response.status)
        rest = web.retry_after(response.headers)
        raise FetchError(f"fetch failed: status {response.status}", passes, not passes, rest)
    try:
        return await web.read_body(response, max_bytes)
    except web.BodyTooLarge:
        raise FetchError(f"too large: more than {max_bytes} bytes", answered=True) from None
