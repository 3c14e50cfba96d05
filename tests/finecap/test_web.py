"""Untrusted bodies are cut at a limit, and tries end."""

import asyncio
import gzip
import tracemalloc
import zlib
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from finecap import web as module
from finecap.web import (
    MAX_ANSWER_BYTES,
    BodyTooLarge,
    Tries,
    is_unconnected,
    may_pass,
    read_answer,
    read_body,
    retry_after,
    session,
    timeout,
)

BOMB = gzip.compress(bytes(200_000_000))


@asynccontextmanager
async def answered(respond):
    """The response of a session of ours to a server on loopback."""
    app = web.Application()
    app.router.add_get("/", respond)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    try:
        async with session() as connections, connections.get(url, timeout=timeout(30)) as response:
            yield response
    finally:
        await runner.cleanup()


def read(body, reader=read_answer, declared=True, **headers):
    async def respond(request):
        assert request.headers["Accept-Encoding"] == "identity"
        if declared:
            return web.Response(body=body, headers=headers)
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        for start in range(0, len(body), 2**20):
            await response.write(body[start : start + 2**20])
        return response

    async def run():
        async with answered(respond) as response:
            return await reader(response)

    return asyncio.run(run())


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_is_read_up_to_its_limit_and_not_beyond(declared):
    def at_most(limit):
        return lambda response: read_body(response, limit)

    assert read(b"x" * 300_000, at_most(300_000), declared) == b"x" * 300_000
    with pytest.raises(BodyTooLarge):
        read(b"x" * 300_001, at_most(300_000), declared)


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "deflate", "GZIP"])
def test_what_a_proxy_compressed_unasked_is_unfolded(encoding):
    packed = zlib.compress(b"hello") if encoding == "deflate" else gzip.compress(b"hello")
    assert read(packed, **{"Content-Encoding": encoding}) == b"hello"


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "nonsense"])
def test_what_is_not_packed_as_it_says_comes_as_it_is(encoding):
    assert read(b"hello", **{"Content-Encoding": encoding}) == b"hello"


def peak_of(reader):
    tracemalloc.start()
    try:
        reader()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_bomb_unfolds_to_no_more_than_an_answer_may_have():
    def guarded():
        with pytest.raises(BodyTooLarge):
            read(BOMB, **{"Content-Encoding": "gzip"})

    assert len(BOMB) < 300_000
    assert peak_of(guarded) < 4 * MAX_ANSWER_BYTES
    assert peak_of(lambda: gzip.decompress(BOMB)) > 40 * MAX_ANSWER_BYTES, "the measure would see it"


def test_the_largest_answer_is_taken_also_when_it_comes_compressed():
    body = bytes(MAX_ANSWER_BYTES)
    assert read(gzip.compress(body), **{"Content-Encoding": "gzip"}) == body
    with pytest.raises(BodyTooLarge):
        read(gzip.compress(body + b"x"), **{"Content-Encoding": "gzip"})


def test_tries_end_with_their_number_or_with_patience(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    tries = Tries(3, 60.0)
    assert [tries.failed(unseen=False) for _ in range(3)] == [None, None, "3 tries"]

    tries = Tries(3, 60.0)
    assert [tries.failed(unseen=True) for _ in range(10)] == [None] * 10, "nobody worked on it"
    now[0] += 59
    assert tries.failed(unseen=True) is None
    now[0] += 1
    assert tries.failed(unseen=True) == "for 60 s"

    tries = Tries(3, 60.0)
    tries.failed(unseen=True)
    tries.failed(unseen=False)
    now[0] += 100
    assert tries.failed(unseen=True) is None, "patience begins anew when somebody worked on it"


def test_waits_grow_and_have_a_limit(monkeypatch):
    slept = []

    async def sleep(seconds):
        slept.append(seconds)

    monkeypatch.setattr(module.asyncio, "sleep", sleep)
    monkeypatch.setattr(module.random, "uniform", lambda low, high: high)

    async def run():
        tries = Tries(99, 60.0)
        for _ in range(40):
            await tries.wait()

    asyncio.run(run())
    assert slept[:4] == [0.5, 1, 2, 4]
    assert slept[-1] == max(slept) == module.LONGEST_WAIT


def test_who_was_not_reached_is_told_from_who_did_not_answer():
    async def connect(url):
        try:
            async with session() as connections, connections.get(url, timeout=timeout(1)) as response:
                await response.read()
        except (aiohttp.ClientError, OSError) as error:
            return is_unconnected(error)

    async def run():
        server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        reached = await connect(f"http://127.0.0.1:{port}/")
        server.close()
        return reached, await connect(f"http://127.0.0.1:{port}/"), await connect("http://nobody.invalid/")

    assert asyncio.run(run()) == (False, True, True)


@given(st.text(alphabet=st.characters(codec="latin-1")))
def test_any_retry_after_is_seconds_or_nothing(value):
    seconds = retry_after({"Retry-After": value})
    assert seconds is None or seconds >= 0


@pytest.mark.parametrize("status", sorted(module.UNSEEN | module.NOT_NOW | {500, 501, 520, 599}))
def test_after_these_answers_another_try_may_fare_better(status):
    assert may_pass(status)


@pytest.mark.parametrize("status", [200, 201, 204, 301, 400, 401, 403, 404, 410, 413, 422, 451])
def test_and_after_these_it_would_not(status):
    assert not may_pass(status)


def test_a_gateway_that_gave_up_counts_as_unseen():
    assert module.GATEWAY_TIMEOUTS < module.UNSEEN


def test_retry_after_is_seconds_or_a_date():
    assert retry_after({"Retry-After": "7"}) == 7
    soon = datetime.now(UTC) + timedelta(seconds=30)
    assert retry_after({"Retry-After": format_datetime(soon, usegmt=True)}) == pytest.approx(30, abs=2)
    assert retry_after({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0
    assert retry_after({}) is None


def test_a_server_that_asks_for_rest_gets_it_within_reason(monkeypatch):
    slept = []

    async def sleep(seconds):
        slept.append(seconds)

    monkeypatch.setattr(module.asyncio, "sleep", sleep)
    monkeypatch.setattr(module.random, "uniform", lambda low, high: low)
    for asked in (None, 7.0, 1e9):
        asyncio.run(Tries(3, 60.0).wait(asked))
    assert slept == [0, 7, module.LONGEST_WAIT]
