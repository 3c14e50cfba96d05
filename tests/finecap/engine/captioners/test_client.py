"""Asking captioners, against a real server on loopback that fails: every request ends exactly once."""

import logging
import time
import traceback
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from aiohttp import web

from finecap.engine.captioners.client import Answer, RequestRejected
from finecap.engine.captioners.spend import estimated, spent
from finecap.errors import StopRun
from tests.support.asking import SECRET, Asking, ask_one, captioner
from tests.support.faulty_server import FAULTS, FaultyServer, default_reply

# At 0.02 each, all kinds come among 600 requests, whichever server takes which (1 miss in 10,000 runs).
STORM = dict.fromkeys(("error", "busy", "hang", "lost", "cut", "malformed", "choiceless", "empty", "null"), 0.02)
STORM |= {"bad": 0.03, "latency": 0.005, "jitter": 0.02}

UNANSWERED = {"hang", "lost", "cut", "malformed", "choiceless"}


def test_in_a_storm_of_faults_every_request_ends_exactly_once_and_is_paid_once(tmp_path):
    """600 requests, 32 in flight, two endpoints; about one answer in five is one of ten kinds of fault."""
    with FaultyServer(seed=3, **STORM) as a, FaultyServer(seed=4, **STORM) as b:
        who = captioner(a, b, timeout_s=1.5)
        asking = Asking(tmp_path, who)
        results = asking.ask_all(range(600))

        asked, answers = [*a.asked, *b.asked], a.answers + b.answers
        by_prompt = {one.prompt: one for one in sorted(asked, key=lambda one: one.at)}
        served = {number: by_prompt[f"Describe. {number}"] for number in results}
        bad = {number for number, last in served.items() if last.fault == "bad"}
        assert {one.fault for one in asked} == {None, "bad", *FAULTS}
        assert {number for number, one in results.items() if isinstance(one, RequestRejected)} == bad
        for number in set(results) - bad:
            empty = served[number].fault in ("empty", "null")
            assert results[number].text == ("" if empty else default_reply(served[number]))
        # What a provider would bill is what was kept: one answer for each request, none twice.
        assert answers.total() == len(answers) == len(asking.journal) == 600 - len(bad)
        assert asking.counters["requests"] == len(asked) == 600 + asking.counters["retries"]
        assert min(len(a.asked), len(b.asked)) > 200
        books = spent(tmp_path)
        good = [results[number] for number in results if number not in bad]
        said, by_estimate = books.tokens - estimated(tmp_path).tokens, estimated(tmp_path).requests
        assert said == sum(one.prompt_tokens + one.completion_tokens for one in good)
        # What ended without an answer may be billed as well.
        assert by_estimate == sum(one.fault in UNANSWERED for one in asked) > 0
        assert books.requests == len(good) + by_estimate

        # Started again after a crash: only what was refused is asked again, and nothing is paid.
        again = Asking(tmp_path, who)
        repeated = again.ask_all(range(600))
        assert [repeated[number] for number in repeated if number not in bad] == good
        assert len(a.asked) + len(b.asked) == len(asked) + len(bad)
        assert (again.counters["answers from the journal"], again.counters["requests"]) == (len(good), len(bad))
        assert spent(tmp_path) == books


def test_a_server_that_goes_away_and_comes_back_costs_no_image(tmp_path, quick):
    """The breaker opens, everybody waits, and a probe brings them back: few requests are wasted on a dead server."""
    with FaultyServer(latency=0.3) as server:
        asking = Asking(tmp_path, captioner(server, patience_s=30))
        with ThreadPoolExecutor() as thread:
            results = thread.submit(asking.ask_all, range(200), in_flight=50)
            while len(server.asked) < 60:
                time.sleep(0.005)
            with server.down():
                before = len(server.asked)
                time.sleep(2.5)
            results = results.result()
    assert {type(one) for one in results.values()} == {Answer}
    assert asking.counters["connections lost"] >= 50
    assert before < len(server.asked) <= asking.counters["requests"]
    assert (
        asking.counters["requests"] < 200 + 50 + 60
    )  # each in flight fails once, some again before the breaker opens


def test_an_endpoint_that_is_down_is_left_alone_and_the_other_does_the_work(tmp_path, quick):
    with FaultyServer(latency=0.005) as good, FaultyServer(status=500) as broken:
        results = Asking(tmp_path, captioner(good, broken)).ask_all(range(200), in_flight=8)
    assert all(isinstance(one, Answer) for one in results.values())
    assert len(broken.asked) < 20


def test_a_faster_endpoint_gets_more(tmp_path):
    with FaultyServer(latency=0.01) as fast, FaultyServer(latency=0.3) as slow:
        Asking(tmp_path, captioner(fast, slow)).ask_all(range(300), in_flight=16)
    assert len(fast.asked) > 2 * len(slow.asked) > 0


def test_when_no_server_answers_the_run_stops_after_the_patience_and_names_it(tmp_path, quick):
    url = "http://127.0.0.1:1/v1"
    start = time.monotonic()
    results = Asking(tmp_path, captioner(url, patience_s=1.0)).ask_all(range(8))
    assert time.monotonic() - start > 0.9
    for error in results.values():
        assert isinstance(error, StopRun)
        assert url in str(error)
        assert "connection not made" in str(error)


def test_a_rest_that_the_server_asks_for_is_kept_by_all_requests(tmp_path):
    with FaultyServer(seed=5, busy=0.05, retry_after="2") as server:
        results = Asking(tmp_path, captioner(server)).ask_all(range(40), in_flight=4)
    assert all(isinstance(one, Answer) for one in results.values())
    rests = [one.at for one in server.asked if one.fault == "busy"]
    assert rests
    # Only what was on its way already may come in the two seconds after a 429.
    assert max(sum(rest + 0.5 < one.at < rest + 1.9 for one in server.asked) for rest in rests) == 0


def test_a_rate_limit_costs_no_image_however_often_it_is_met(tmp_path, quick):
    with FaultyServer(busy=0.6, retry_after="0") as server:
        results = Asking(tmp_path, captioner(server, max_attempts=2)).ask_all(range(30))
    assert all(isinstance(one, Answer) for one in results.values())


def test_a_server_that_is_always_busy_stops_the_run(tmp_path, quick):
    with FaultyServer(status=429) as server, pytest.raises(StopRun, match=r"no answer for 0\.5 s, only 429"):
        ask_one(tmp_path, captioner(server, patience_s=0.5))


@pytest.mark.parametrize(
    ("faults", "reason"),
    [
        ({"error": 1.0}, "captioner failed: 500 Internal server error (3 tries)"),
        ({"hang": 1.0}, "captioner failed: no answer within 0.2 s (3 tries)"),
        ({"lost": 1.0}, "captioner failed: connection lost, "),
        ({"cut": 1.0}, "captioner failed: connection lost, "),
        ({"malformed": 1.0}, "captioner failed: malformed answer "),
        ({"choiceless": 1.0}, "captioner failed: malformed answer "),
        ({"bad": 1.0}, "captioner refused the request: 400 Invalid image."),
    ],
)
def test_a_request_that_keeps_failing_is_rejected_with_its_reason(tmp_path, quick, faults, reason):
    with FaultyServer(**faults) as server, pytest.raises(RequestRejected) as caught:
        ask_one(tmp_path, captioner(server, timeout_s=0.2, max_attempts=3))
    assert str(caught.value).startswith(reason)
    assert len(server.asked) == (1 if "bad" in faults else 3)
    assert (tmp_path / "shard.journal.jsonl").exists() is False


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, "the key is wrong"),
        (402, "no credit"),
        (403, "may not use"),
        (404, "does not know this model"),
        (308, "redirect"),
    ],
)
def test_a_wrong_recipe_stops_the_run_at_once(tmp_path, monkeypatch, status, message):
    monkeypatch.setenv("CAPTION_KEY", SECRET)
    with FaultyServer(status=status) as server, pytest.raises(StopRun, match=message) as caught:
        ask_one(tmp_path, captioner(server, api_key_env="CAPTION_KEY"))
    assert len(server.asked) == 1
    assert "'model-1'" in str(caught.value)
    assert server.url in str(caught.value)


def test_a_picture_that_moderation_flags_is_rejected_and_the_run_goes_on(tmp_path):
    class Server(FaultyServer):
        async def _respond(self, asked, request):
            if len(self.asked) == 2:
                message = 'google/gemini requires moderation. Your input was flagged for "violence".'
                return web.json_response({"error": {"code": 403, "message": message}}, status=403)
            return await super()._respond(asked, request)

    with Server() as server:
        results = Asking(tmp_path, captioner(server)).ask_all(range(3), in_flight=1)
    assert [type(one) for one in results.values()] == [Answer, RequestRejected, Answer]
    assert str(results[1]).startswith("captioner refused the request: 403 google/gemini")


def test_the_right_key_and_model_are_let_in_and_others_are_not(tmp_path, monkeypatch):
    with FaultyServer(key=SECRET, models=("model-1",)) as server:
        who = captioner(server, api_key_env="CAPTION_KEY")
        with pytest.raises(StopRun, match="the environment variable CAPTION_KEY is not set"):
            ask_one(tmp_path, who)
        monkeypatch.setenv("CAPTION_KEY", "sk-other")
        with pytest.raises(StopRun, match=r"variable CAPTION_KEY.*the key is wrong"):
            ask_one(tmp_path, who)
        monkeypatch.setenv("CAPTION_KEY", SECRET + "\n")
        assert ask_one(tmp_path, who).finish_reason == "stop"
        with pytest.raises(StopRun, match=r"'model-2'.*does not exist"):
            ask_one(tmp_path / "2", replace(who, model="model-2"))


def test_twenty_refusals_and_no_answer_stop_the_run(tmp_path):
    with FaultyServer(bad=1.0) as server:
        results = Asking(tmp_path, captioner(server)).ask_all(range(25), in_flight=1)
    assert [type(one) for one in results.values()][:19] == [RequestRejected] * 19
    assert isinstance(results[19], StopRun)
    assert "first 20 requests were all refused" in str(results[19])


def test_refusals_after_an_answer_are_the_images_own(tmp_path):
    class Server(FaultyServer):
        def _fault(self, identity, before):
            return "bad" if self.answers else None

    with Server() as server:
        results = Asking(tmp_path, captioner(server)).ask_all(range(40), in_flight=1)
    assert Counter(type(one) for one in results.values()) == {Answer: 1, RequestRejected: 39}


@pytest.mark.parametrize(
    "fault", [{"status": 401}, {"status": 400}, {"status": 500}, {"status": 429}, {"malformed": 1}, {}]
)
def test_the_key_is_nowhere_but_in_the_request(tmp_path, monkeypatch, caplog, quick, fault):
    """Servers echo it: in errors (the fake does) and, here, in answers."""
    monkeypatch.setenv("CAPTION_KEY", SECRET)
    caplog.set_level(logging.DEBUG)
    with FaultyServer(**fault, reply=lambda asked: f"you sent {asked.authorization}") as server:
        who = captioner(server, api_key_env="CAPTION_KEY", max_attempts=2, patience_s=0.2)
        asking = Asking(tmp_path, who)
        (result,) = asking.ask_all([0]).values()
    assert server.asked[0].authorization == f"Bearer {SECRET}"
    texts = [str(result), repr(result), repr(asking.counters), repr(vars(asking.client)), caplog.text]
    texts += traceback.format_exception(result) if isinstance(result, Exception) else []
    texts += [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert not [text for text in texts if "hunter2" in text]
    if not fault:
        assert result.text == "you sent Bearer [key]"
