"""Which endpoint gets a request: the one with the fewest in flight, and none that is down."""

import asyncio
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from finecap.engine.captioners.endpoints import FAILURES_TO_OPEN, LONGEST_PAUSE, Endpoints
from finecap.engine.captioners.ensemble import Budget, Captioner, draw_captioner
from finecap.errors import StopRun


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def captioner(name="a", **options):
    return Captioner(name, "m", ("http://x/v1",), **options)


def endpoints(*urls, patience=60.0, clock=None):
    return Endpoints("cap", urls, patience, clock or Clock())


async def ask(routes, outcome=None, avoid=None):
    """One request at once; `outcome` is an error, or None for a good answer. Its URL, or None when all are down."""
    if routes._pick(avoid) is None:
        return None
    async with routes.place(avoid) as endpoint:
        routes.failed(endpoint, outcome) if outcome else routes.succeeded(endpoint)
        return endpoint.url


def test_requests_go_where_the_fewest_are_in_flight_and_ties_take_turns():
    async def run():
        routes = endpoints("a", "b", "c")
        turns = [await ask(routes) for _ in range(6)]
        async with routes.place() as first, routes.place() as second, routes.place() as third:
            held = [first.url, second.url, third.url]
            async with routes.place() as fourth:
                assert fourth.in_flight == 2
        assert [one.in_flight for one in routes.all] == [0, 0, 0]
        return turns, held

    turns, held = asyncio.run(run())
    assert turns == ["a", "b", "c"] * 2
    assert sorted(held) == ["a", "b", "c"]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 10)), max_size=60))
def test_an_endpoint_never_has_more_than_one_above_the_least(steps):
    """Requests begin and end in any order; a new one never goes where there are more than elsewhere."""

    async def run():
        routes, open_places = endpoints("a", "b", "c"), []
        for begin, which in steps:
            if begin:
                least = min(one.in_flight for one in routes.all)
                place = routes.place()
                assert (await place.__aenter__()).in_flight == least + 1
                open_places.append(place)
            elif open_places:
                await open_places.pop(which % len(open_places)).__aexit__(None, None, None)
        assert sum(one.in_flight for one in routes.all) == len(open_places)
        for place in open_places:
            await place.__aexit__(None, None, None)

    asyncio.run(run())


def test_a_faster_endpoint_gets_more():
    async def run():
        routes, asked = endpoints("fast", "slow"), Counter()
        places = asyncio.Semaphore(16)

        async def one():
            async with places, routes.place() as endpoint:
                asked[endpoint.url] += 1
                await asyncio.sleep(0.001 if endpoint.url == "fast" else 0.1)

        await asyncio.gather(*[one() for _ in range(400)])
        return asked

    asked = asyncio.run(run())
    assert asked["fast"] > 3 * asked["slow"] > 0


def test_a_retry_goes_elsewhere_if_there_is_an_elsewhere():
    async def run():
        two, one = endpoints("a", "b"), endpoints("a")
        for _ in range(3):
            assert await ask(two, avoid=two.all[0]) == "b"
        assert await ask(one, avoid=one.all[0]) == "a"

    asyncio.run(run())


def test_failures_in_a_row_open_the_breaker_and_an_answer_between_them_does_not():
    async def run():
        routes = endpoints("a")
        for outcome in ["down"] * (FAILURES_TO_OPEN - 1) + [None] + ["down"] * (FAILURES_TO_OPEN - 1):
            assert await ask(routes, outcome) == "a"
        assert await ask(routes, "down") == "a"
        assert await ask(routes) is None

    asyncio.run(run())


def test_after_a_pause_one_probe_finds_out_and_each_failed_one_makes_the_pause_longer():
    clock = Clock()

    async def run():
        routes = endpoints("a", patience=1e9, clock=clock)
        for _ in range(FAILURES_TO_OPEN):
            await ask(routes, "down")
        pauses = []
        for _ in range(9):
            start = clock.now
            while await ask(routes, "down") is None:
                clock.now += 0.25
            pauses.append(clock.now - start)
        for number, pause in enumerate(pauses):
            nominal = min(LONGEST_PAUSE, 2.0**number)
            assert nominal / 2 <= pause <= nominal + 0.25

        clock.now += LONGEST_PAUSE
        async with routes.place() as endpoint:
            assert routes._pick(None) is None  # while the probe is under way, nobody else
            routes.succeeded(endpoint)
        assert [await ask(routes) for _ in range(3)] == ["a"] * 3

    asyncio.run(run())


def test_failures_of_requests_sent_before_the_breaker_opened_do_not_lengthen_the_pause():
    async def run():
        clock = Clock()
        routes = endpoints("a", clock=clock)
        async with routes.place() as endpoint:
            for _ in range(32):
                routes.failed(endpoint, "down")
        clock.now += 1.01
        assert await ask(routes) == "a"

    asyncio.run(run())


def test_a_late_answer_closes_the_breaker_at_once():
    async def run():
        routes = endpoints("a")
        async with routes.place() as endpoint:
            for _ in range(FAILURES_TO_OPEN):
                routes.failed(endpoint, "down")
            assert await ask(routes) is None
            routes.succeeded(endpoint)
        assert await ask(routes) == "a"

    asyncio.run(run())


def test_a_cancelled_probe_makes_room_for_another():
    async def run():
        clock = Clock()
        routes = endpoints("a", clock=clock)
        for _ in range(FAILURES_TO_OPEN):
            await ask(routes, "down")
        clock.now += 2

        async def hang():
            async with routes.place():
                await asyncio.sleep(60)

        task = asyncio.create_task(hang())
        await asyncio.sleep(0)
        assert await ask(routes) is None
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert await ask(routes) == "a"

    asyncio.run(run())


def test_one_endpoint_down_leaves_the_other_with_everything_until_it_is_back():
    async def run():
        clock = Clock()
        routes = endpoints("a", "b", clock=clock)
        asked = []
        for step in range(100):
            asked.append(await ask(routes, "down" if asked.count("a") < FAILURES_TO_OPEN and step % 2 == 0 else None))
            clock.now += 0.001
        assert asked[20:].count("b") == 80
        clock.now += 2
        return [await ask(routes) for _ in range(10)]

    assert Counter(asyncio.run(run())) == {"a": 5, "b": 5}


def test_waiters_go_on_as_soon_as_a_probe_brings_the_endpoint_back():
    async def run():
        routes = Endpoints("cap", ["a"], 30.0)
        for _ in range(FAILURES_TO_OPEN):
            await ask(routes, "down")

        async def one():
            async with routes.place() as endpoint:
                routes.succeeded(endpoint)

        await asyncio.wait_for(asyncio.gather(*[one() for _ in range(50)]), 3)

    asyncio.run(run())


def test_when_all_are_down_for_longer_than_the_patience_the_run_stops_and_says_why():
    async def run():
        routes = Endpoints("cap", ["http://a/v1", "http://b/v1"], 0.3)
        for _ in range(2 * FAILURES_TO_OPEN):
            await ask(routes, "connection refused")
        async with routes.place():
            pass

    with pytest.raises(StopRun, match=r"cap: .*0\.3 s.*http://a/v1 \(connection refused\); http://b/v1 \(connection"):
        asyncio.run(run())


def test_a_wait_for_servers_is_said_once_for_each_outage(caplog):
    async def run():
        routes = endpoints("http://a", "http://b")
        for outage in range(2):
            first, second = routes.all
            for _ in range(FAILURES_TO_OPEN + 2):
                routes.failed(first, "refused")
            assert len(caplog.messages) == outage  # the other one is still there
            for _ in range(FAILURES_TO_OPEN + 2):
                routes.failed(second, "refused")
            assert len(caplog.messages) == outage + 1
            routes.succeeded(first)
            routes.succeeded(second)

    asyncio.run(run())
    assert caplog.messages[0] == (
        "captioner cap: no endpoint answers: http://a (refused); http://b (refused); waiting up to 60 s"
    )


def test_an_endpoint_that_asks_for_a_rest_gets_it():
    async def run():
        clock = Clock()
        routes = endpoints("a", "b", clock=clock)
        routes.rest(routes.all[0], 10, "429")
        assert [await ask(routes) for _ in range(4)] == ["b"] * 4
        routes.rest(routes.all[1], 20, "429")
        assert await ask(routes) is None
        clock.now += 10
        assert await ask(routes) == "a"

    asyncio.run(run())


def test_failures_that_open_the_breaker_do_not_shorten_the_rest():
    async def run():
        clock = Clock()
        routes = endpoints("a", clock=clock)
        routes.rest(routes.all[0], 20, "503")
        for _ in range(FAILURES_TO_OPEN):
            routes.failed(routes.all[0], "503")
        clock.now += 19
        assert await ask(routes) is None
        clock.now += 1
        assert await ask(routes) == "a"

    asyncio.run(run())


# Captioners: what a recipe may say of them, and which one is drawn.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": -1}, "weight must be 0 or more"),
        ({"weight": float("nan")}, "weight must be 0 or more"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"patience_s": -1}, "patience_s"),
        ({"temperature": -0.1}, "temperature"),
        ({"endpoints": ()}, "no endpoints"),
        ({"endpoints": ("gpu1:8000/v1",)}, "http"),
        ({"endpoints": ("ftp://gpu1/v1",)}, "http"),
        ({"endpoints": ("http://gpu1:port/v1",)}, "no URL"),
        ({"endpoints": ("http://x/v1", "http://x/v1")}, "twice"),
        ({"endpoints": ("http://x/v1/chat/completions",)}, "leave /chat/completions out"),
        ({"endpoints": ("http://x/v1?key=1",)}, "query"),
        ({"name": ""}, "name"),
    ],
)
def test_a_captioner_that_cannot_work_is_refused_with_its_reason(change, message):
    with pytest.raises(ValidationError, match=message):
        Captioner(**{"name": "a", "model": "m", "endpoints": ("http://x/v1",), **change})


@pytest.mark.parametrize(
    "change", [{"api_key_env": "sk-hunter2"}, {"endpoints": ("https://user:sk-hunter2@x/v1",)}], ids=["key", "url"]
)
def test_a_secret_written_into_the_recipe_is_refused_without_repeating_it(change):
    with pytest.raises(ValueError) as caught:
        Captioner(**{"name": "a", "model": "m", "endpoints": ("http://x/v1",), **change})
    assert "hunter2" not in str(caught.value)


def test_budgets_are_not_negative():
    with pytest.raises(ValidationError, match="dollars"):
        Budget(dollars=-1)


def test_captioners_are_drawn_by_weight_and_always_alike():
    ensemble = [captioner("a", weight=6), captioner("b", weight=3), captioner("c", weight=1)]
    keys = [f"image-{number}" for number in range(20_000)]
    drawn = [draw_captioner(ensemble, 7, key).name for key in keys]
    shares = {name: count / len(keys) for name, count in Counter(drawn).items()}
    assert shares == pytest.approx({"a": 0.6, "b": 0.3, "c": 0.1}, abs=0.012)  # three standard deviations
    assert drawn == [draw_captioner(ensemble[::-1], 7, key).name for key in keys]
    other = [draw_captioner(ensemble, 8, key).name for key in keys]
    agreement = sum(a == b for a, b in zip(drawn, other, strict=True)) / len(keys)
    assert agreement == pytest.approx(0.36 + 0.09 + 0.01, abs=0.015)  # as of independent draws


def test_a_captioner_more_takes_images_from_the_others_and_swaps_none_between_them():
    two = [captioner("a"), captioner("b")]
    three = [*two, captioner("c")]
    pairs = [(draw_captioner(two, 0, str(key)).name, draw_captioner(three, 0, str(key)).name) for key in range(2000)]
    assert {after for before, after in pairs if before != after} == {"c"}


def test_drawing_from_nobody_says_what_is_missing():
    with pytest.raises(ValueError, match="captioners"):
        draw_captioner([], 0, "x")
