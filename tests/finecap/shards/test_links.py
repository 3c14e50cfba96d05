"""A dead link is that link's fault; an outage is nobody's, and no picture is given up for it."""

import asyncio
from collections import Counter
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from finecap import web as web_module
from finecap.errors import StopRun
from finecap.shards import links as module
from finecap.shards.fetch import FetchError
from finecap.shards.links import MAX_ATTEMPTS, Links
from finecap.web import Tries

DEAD = "http://127.0.0.9:1"  # nobody listens


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(web_module, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(web_module, "LONGEST_WAIT", 0.05)


class Host:
    """Pictures on one address of loopback; `plan` says what a path answers in turn, the last one for ever."""

    def __init__(self, address="127.0.0.1", **plan):
        self.address, self.plan, self.asked, self.port = address, plan, Counter(), 0

    async def _answer(self, request):
        name = request.path.strip("/")
        self.asked[name] += 1
        turns = self.plan.get(name, [200])
        status = turns[min(self.asked[name], len(turns)) - 1]
        if status is None:
            request.transport.abort()
        return web.Response(status=status or 200, body=name.encode(), headers={"Retry-After": "0"})

    @asynccontextmanager
    async def up(self):
        app = web.Application()
        app.router.add_get("/{path:.*}", self._answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, self.address, self.port).start()
        self.port = runner.addresses[0][1]
        try:
            yield
        finally:
            await runner.cleanup()

    def url(self, name):
        return f"http://{self.address}:{self.port}/{name}"


def links(patience_s=30.0):
    return Links(patience_s, allowed=lambda address: True)


async def outcome(asking):
    try:
        return await asking
    except (FetchError, StopRun) as error:
        return error


@pytest.mark.parametrize("fault", [503, 502, 500, 429, 408, None])
def test_what_fails_for_a_while_is_tried_again(fault):
    host = Host(a=[fault, fault, 200])

    async def run():
        async with host.up():
            return await links().fetch(host.url("a"), 99)

    assert asyncio.run(run()) == b"a"
    assert host.asked == {"a": 3}


@pytest.mark.parametrize("status", [404, 403, 410])
def test_a_final_answer_is_asked_for_once(status):
    host = Host(a=[status])

    async def run():
        async with host.up():
            return await outcome(links().fetch(host.url("a"), 99))

    assert str(asyncio.run(run())) == f"fetch failed: status {status}"
    assert host.asked == {"a": 1}


@pytest.mark.parametrize("url", [f"{DEAD}/x", "http://nobody.invalid/x"])
def test_a_dead_link_among_living_ones_is_rejected(url):
    host = Host()

    async def run():
        async with host.up():
            fetcher = links()
            asked = [url, *(host.url(str(number)) for number in range(5))]
            return await asyncio.gather(*(outcome(fetcher.fetch(one, 99)) for one in asked))

    dead, *alive = asyncio.run(run())
    assert isinstance(dead, FetchError)
    assert alive == [b"0", b"1", b"2", b"3", b"4"]


def test_a_dead_link_at_the_end_is_rejected_for_another_is_looked_at(monkeypatch):
    """Nothing else is under way that could show that the network works."""
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.0)
    host = Host()

    async def run():
        async with host.up():
            fetcher = links()
            await fetcher.fetch(host.url("a"), 99)
            return await outcome(fetcher.fetch(f"{DEAD}/x", 99))

    assert str(asyncio.run(run())) == "fetch failed: ClientConnectorError"
    assert host.asked == {"a": 2}


def test_a_link_that_its_host_cannot_serve_is_rejected_while_others_of_it_come():
    host = Host(bad=[500])

    async def run():
        async with host.up():
            fetcher = links()
            await fetcher.fetch(host.url("a"), 99)
            return await outcome(fetcher.fetch(host.url("bad"), 99))

    assert str(asyncio.run(run())) == "fetch failed: status 500"
    assert host.asked["bad"] == MAX_ATTEMPTS + 1


@pytest.mark.parametrize("base", [DEAD, "http://nobody.invalid"])
def test_an_outage_of_everything_stops_the_run_and_rejects_nothing(base):
    async def run():
        fetcher = links(patience_s=0.5)
        return await asyncio.gather(*(outcome(fetcher.fetch(f"{base}/{number}", 99)) for number in range(20)))

    results = asyncio.run(run())
    assert {type(one) for one in results} == {StopRun}
    assert "Run the same command again" in str(results[0])


def test_a_host_that_goes_away_and_comes_back_costs_no_picture():
    """The other host shows that the network works; that alone does not condemn this one."""
    host, other = Host(), Host("127.0.0.2")

    async def run():
        fetcher = links()
        async with other.up():
            async with host.up():
                await fetcher.fetch(host.url("a"), 99)
            waiting = [asyncio.create_task(outcome(fetcher.fetch(host.url(str(n)), 99))) for n in range(8)]
            for number in range(30):
                assert await fetcher.fetch(other.url(str(number)), 99)
                await asyncio.sleep(0.02)
            assert not any(one.done() for one in waiting)
            async with host.up():
                return await asyncio.gather(*waiting)

    assert asyncio.run(run()) == [str(number).encode() for number in range(8)]


def test_a_host_that_stays_away_stops_the_run_and_the_next_start_gives_it_up():
    host, other = Host(), Host("127.0.0.2")

    async def run():
        fetcher = links(patience_s=0.5)
        async with other.up():
            async with host.up():
                await fetcher.fetch(host.url("a"), 99)
            first = await outcome(fetcher.fetch(host.url("b"), 99))
            again = links(patience_s=0.5)
            await again.fetch(other.url("c"), 99)
            return first, await outcome(again.fetch(host.url("b"), 99))

    first, again = asyncio.run(run())
    assert isinstance(first, StopRun)
    assert isinstance(again, FetchError)


def test_the_first_link_of_all_waits_for_a_sign_that_the_network_works():
    host = Host()

    async def run():
        fetcher = links()
        async with host.up():
            first = asyncio.create_task(outcome(fetcher.fetch(f"{DEAD}/x", 99)))
            await asyncio.sleep(0.5)
            assert not first.done()
            await fetcher.fetch(host.url("a"), 99)
            return await asyncio.wait_for(first, 60)

    assert isinstance(asyncio.run(run()), FetchError)


def test_links_that_are_refused_are_not_tried_again(monkeypatch):
    monkeypatch.setattr(Tries, "wait", None)  # what would try again

    async def run():
        return await outcome(Links().fetch("http://127.0.0.1:1/", 99))

    assert "no public address" in str(asyncio.run(run()))


def test_as_many_hosts_as_there_are_do_not_fill_the_memory(monkeypatch):
    monkeypatch.setattr(module, "MOST_HOSTS", 3)
    fetcher = links()
    for number in range(10):
        fetcher._remember(f"http://host{number}/a")
    assert list(fetcher._answered) == ["host7", "host8", "host9"]
