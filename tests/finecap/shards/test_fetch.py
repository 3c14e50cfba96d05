"""Pictures behind links: only from public addresses, whatever the link, its name server or its redirects say."""

import asyncio
import ipaddress
import socket
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from finecap.shards.fetch import NEVER_PUBLIC, FetchError, fetch_image, is_public

PICTURE = b"\xff\xd8\xff" + bytes(range(256)) * 40


def fetch(url, max_bytes=10**6, **options):
    return asyncio.run(fetch_image(url, max_bytes, **options))


@asynccontextmanager
async def serving(answer, host="127.0.0.1"):
    async def handler(request):
        return await answer(request)

    app = web.Application()
    app.router.add_get("/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, host, 0).start()
    try:
        yield f"http://{host}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def fetch_from(answer, path="/a.jpg", max_bytes=10**6, allowed=lambda address: address == "127.0.0.1", **options):
    async def run():
        async with serving(answer) as base:
            return await fetch_image(base + path, max_bytes, allowed=allowed, **options)

    return asyncio.run(run())


async def picture(request):
    return web.Response(body=PICTURE)


def test_a_picture_comes_back_whole_and_its_query_is_kept():
    seen = []

    async def answer(request):
        seen.append((request.raw_path, request.headers.get("Authorization"), request.headers["Accept-Encoding"]))
        return web.Response(body=PICTURE)

    assert fetch_from(answer, "/a%2Fb.jpg?sig=x%3D&w=1") == PICTURE
    assert seen == [("/a%2Fb.jpg?sig=x%3D&w=1", None, "identity")]


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0x7f.0.0.1",
        "0177.0.0.1",
        "0",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "169.254.169.254",
        "168.63.129.16",
        "192.0.0.192",
        "100.100.100.200",
        "[64:ff9b::a83f:8110]",
        "[2002:a83f:8110::1]",
        "[fd00:ec2::254]",
        "224.0.0.1",
        "255.255.255.255",
        "[::1]",
        "[::]",
        "[fe80::1]",
        "[fd00::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[64:ff9b::7f00:1]",
        "[64:ff9b:1::7f00:1]",
        "[::127.0.0.1]",
        "[fec0::1]",
        "[2001:0:7f00:1::]",
        "[2002:7f00:1::]",
        "localhost",
        "ｌｏｃａｌｈｏｓｔ",
        "127。0。0。1",
    ],
)
def test_private_addresses_are_refused_in_every_spelling(host):
    """A server listens on loopback; had a connection been made, the picture would come back."""

    async def run():
        async with serving(picture) as base:
            port = base.rpartition(":")[2]
            await fetch_image(f"http://{host}:{port}/a.jpg", 10**6)

    with pytest.raises(FetchError, match=r"^url refused: "):
        asyncio.run(run())


def test_the_same_server_is_reached_once_its_address_is_allowed():
    async def run(host):
        async with serving(picture) as base:
            return await fetch_image(f"http://{host}:{base.rpartition(':')[2]}/", 10**6, allowed=lambda address: True)

    assert [asyncio.run(run(host)) for host in ("127.0.0.1", "localhost", "0x7f000001")] == [PICTURE] * 3


@given(st.integers(0, 2**32 - 1))
def test_an_ipv6_address_is_as_public_as_the_ipv4_address_in_it(number):
    inner = ipaddress.IPv4Address(number)
    private = not inner.is_global or inner.is_multicast or any(inner in network for network in NEVER_PUBLIC)
    assert is_public(str(inner)) == (not private and not inner.is_reserved)
    for outer in (0xFFFF << 32 | number, 0x64FF9B << 96 | number, 0x2002 << 112 | number << 80 | 1):
        if not is_public(str(inner)):
            assert not is_public(str(ipaddress.IPv6Address(outer)))


@pytest.mark.parametrize("address", ["8.8.8.8", "168.63.129.17", "192.0.1.1", "2606:4700::1111", "64:ff9b::808:808"])
def test_public_addresses_are_public(address):
    assert is_public(address)


def resolving(monkeypatch, *answers):
    """Name servers that give these answers, one after the other."""
    waiting = list(answers)

    async def resolve(self, host, port=0, family=socket.AF_UNSPEC):
        addresses = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        kind = {"hostname": host, "port": port, "family": socket.AF_INET, "proto": 0, "flags": 0}
        return [{**kind, "host": address} for address in addresses]

    monkeypatch.setattr(aiohttp.ThreadedResolver, "resolve", resolve)


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["93.184.216.34", "10.0.0.1"]])
def test_a_name_with_any_private_address_is_refused(monkeypatch, addresses):
    resolving(monkeypatch, addresses)
    with pytest.raises(FetchError, match=r"url refused: 1.* is no public address"):
        fetch("http://pictures.example/a.jpg")


def test_a_name_that_turns_private_for_the_redirect_is_refused(monkeypatch):
    """Rebinding: public at first (the test's server), then private; also each name is asked for once per hop."""
    resolving(monkeypatch, ["127.0.0.1"], ["127.0.0.2"])

    async def answer(request):
        return web.Response(status=302, headers={"Location": str(request.url)})

    async def run():
        async with serving(answer) as base:
            port = base.rpartition(":")[2]
            await fetch_image(f"http://pictures.example:{port}/", 99, allowed=lambda address: address == "127.0.0.1")

    with pytest.raises(FetchError, match=r"url refused: 127\.0\.0\.2"):
        asyncio.run(run())


def test_the_socket_itself_is_checked(monkeypatch):
    """Were the check of the resolver fooled, the one at the connection still holds."""
    import finecap.shards.fetch as module

    async def resolve(self, host, port=0, family=socket.AF_UNSPEC):
        return [{"hostname": host, "host": "127.0.0.1", "port": port, "family": 2, "proto": 0, "flags": 0}]

    monkeypatch.setattr(module._Resolver, "resolve", resolve)
    with pytest.raises(FetchError, match=r"url refused: 127\.0\.0\.1"):
        fetch("http://pictures.example/a.jpg")


@pytest.mark.parametrize(
    "location", ["http://127.0.0.2/x", "http://[::1]/x", "http://169.254.169.254/latest/meta-data/", "//127.0.0.2/x"]
)
def test_a_redirect_to_a_private_address_is_refused(location):
    async def answer(request):
        return web.Response(status=302, headers={"Location": location})

    with pytest.raises(FetchError, match=r"url refused: .* is no public address"):
        fetch_from(answer)


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://8.8.8.8/x", "gopher://8.8.8.8/", "data:,x"])
def test_a_redirect_to_another_scheme_is_refused(location):
    async def answer(request):
        return web.Response(status=301, headers={"Location": location})

    with pytest.raises(FetchError, match=r"url refused: .* scheme"):
        fetch_from(answer)


def test_relative_redirects_are_followed_up_to_five():
    async def answer(request):
        left = int(request.path.strip("/"))
        return web.Response(status=307, headers={"Location": f"/{left - 1}"}) if left else web.Response(body=PICTURE)

    assert fetch_from(answer, "/5") == PICTURE
    with pytest.raises(FetchError, match="fetch failed: more than 5 redirects"):
        fetch_from(answer, "/6")


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://8.8.8.8/a", "//8.8.8.8/a", "a.jpg", "", "http://", "http://u:p@8.8.8.8/a"]
)
def test_links_that_are_no_plain_http_are_refused(url):
    with pytest.raises(FetchError, match=r"^(url refused|fetch failed): "):
        fetch(url)


def test_credentials_and_queries_are_not_in_the_reason():
    for url in ("http://user:hunter2@8.8.8.8/", "http://127.0.0.1/?token=hunter2", "http://[hunter2/"):
        with pytest.raises(FetchError) as caught:
            fetch(url)
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_beyond_the_limit_is_cut_off(declared):
    sent = 0

    async def answer(request):
        nonlocal sent
        response = web.StreamResponse(headers={"Content-Length": str(10**9)} if declared else {})
        await response.prepare(request)
        for _ in range(1000):
            await response.write(bytes(100_000))
            sent += 100_000
        return response

    with pytest.raises(FetchError, match="too large: more than 300000 bytes"):
        fetch_from(answer, max_bytes=300_000)
    assert sent < 20_000_000


def test_a_body_of_just_the_limit_is_taken():
    assert fetch_from(picture, max_bytes=len(PICTURE)) == PICTURE


def test_a_compressed_bomb_is_not_unfolded():
    import gzip

    bomb = gzip.compress(bytes(50_000_000))

    async def answer(request):
        return web.Response(body=bomb, headers={"Content-Encoding": "gzip"})

    assert fetch_from(answer, max_bytes=100_000) == bomb


def test_slow_servers_bad_statuses_and_dead_ports_are_reasons():
    async def slow(request):
        await asyncio.sleep(30)

    async def missing(request):
        return web.Response(status=404)

    with pytest.raises(FetchError, match=r"fetch failed: nothing complete within 0\.2 s"):
        fetch_from(slow, timeout_s=0.2)
    with pytest.raises(FetchError, match="fetch failed: status 404"):
        fetch_from(missing)
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(FetchError, match="fetch failed: ClientConnectorError"):
            fetch(f"http://127.0.0.1:{bound.getsockname()[1]}/", allowed=lambda address: True)


@pytest.mark.parametrize(
    ("status", "transient"),
    [(404, False), (403, False), (410, False), (204, False), (408, True), (429, True), (500, True), (503, True)],
)
def test_what_passes_is_told_from_what_is_final(status, transient):
    async def answer(request):
        return web.Response(status=status, headers={"Retry-After": "7"})

    with pytest.raises(FetchError) as caught:
        fetch_from(answer)
    assert (caught.value.transient, caught.value.answered) == (transient, not transient)
    assert caught.value.retry_after == 7


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/", "http://nobody.invalid/"])
def test_who_is_not_reached_may_be_reached_later(url):
    with pytest.raises(FetchError) as caught:
        fetch(url, allowed=lambda address: True)
    assert (caught.value.transient, caught.value.answered) == (True, False)


@pytest.mark.parametrize("url", ["http://127.0.0.1/", "file:///x", "http://u:p@8.8.8.8/"])
def test_a_link_that_is_refused_says_nothing_of_the_network(url):
    with pytest.raises(FetchError) as caught:
        fetch(url)
    assert (caught.value.transient, caught.value.answered) == (False, False)


def test_a_redirect_from_https_to_http_is_refused(monkeypatch):
    """Without a certificate at hand, the scheme is given to the function that judges it."""
    from yarl import URL

    import finecap.shards.fetch as module

    class Session:
        @asynccontextmanager
        async def get(self, url, allow_redirects, timeout):
            assert url == URL("https://a.example/x")
            yield type("R", (), {"status": 302, "headers": {"Location": "http://a.example/x"}})

    with pytest.raises(FetchError, match="from https to http"):
        asyncio.run(module._follow(Session(), "https://a.example/x", 10, aiohttp.ClientTimeout(1)))
