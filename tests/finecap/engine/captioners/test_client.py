"""Asking captioners, against a real server on loopback that fails: every request ends exactly once."""

import asyncio
import base64
import json
import logging
import subprocess
import sys
import time
import traceback
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from aiohttp import web

from finecap import web as web_module
from finecap.engine.captioners.client import Answer, ChatClient, RequestRejected, chat_client
from finecap.engine.captioners.ensemble import Budget, Captioner
from finecap.engine.captioners.spend import Ledger, Spend, estimated, spent
from finecap.engine.contract import Context, Settings
from finecap.engine.running.concurrency import event_loop, map_bounded
from finecap.engine.running.journal import Journal
from finecap.errors import StopRun
from tests.support.faulty_server import FAULTS, FaultyServer, default_reply

JPEG = b"\xff\xd8\xff\xe0" + bytes(range(256))
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
SECRET = "sk-hunter2-0123456789"


@pytest.fixture
def quick(monkeypatch):
    """Short waits between tries, where the test is not about them."""
    monkeypatch.setattr(web_module, "FIRST_WAIT", 0.01)


def captioner(*servers, **options):
    urls = tuple(server.url if isinstance(server, FaultyServer) else server for server in servers)
    return Captioner("cap", "model-1", urls, **{"timeout_s": 5.0, **options})


def context(out, who, models, shard, budget=None):
    settings = Settings(captioners=(who,), budget=budget or Budget())
    return Context(shard, settings, Journal(out / f"{shard}.jsonl"), None, out, models)


def asking_in(here):
    """What a pass does for one row."""

    async def one(row):
        options = {"key": row["key"], "journal": here.journal, "counters": here.counters, "max_tokens": 9}
        return await chat_client(here).ask(here.settings.captioners[0], row["key"], [JPEG], **options)

    return one


class Asking:
    """A client with its journal and counters, as a pass over one shard has them."""

    def __init__(self, out, who, budget=None):
        self.client = ChatClient(out, budget or Budget())
        self.journal = Journal(out / "shard.journal.jsonl")
        self.counters = Counter()
        self.who = who

    async def ask(self, number, images=(JPEG,), **options):
        key = {"key": f"{number}|dense", "journal": self.journal, "counters": self.counters}
        return await self.client.ask(self.who, f"Describe. {number}", images, **key, **{"max_tokens": 64, **options})

    async def _ask_all(self, numbers, in_flight):
        places = asyncio.Semaphore(in_flight)

        async def one(number):
            async with places:
                try:
                    return await self.ask(number)
                except (RequestRejected, StopRun) as error:
                    return error

        try:
            return dict(zip(numbers, await asyncio.gather(*map(one, numbers)), strict=True))
        finally:
            await self.client.close()
            self.journal.close()

    def ask_all(self, numbers, in_flight=32):
        """What each request ended as, errors included."""
        return asyncio.run(self._ask_all(numbers, in_flight))


def ask_one(out, who, **options):
    async def run():
        asking = Asking(out, who)
        try:
            return await asking.ask(0, **options)
        finally:
            await asking.client.close()

    return asyncio.run(run())


STORM = {"error": 0.02, "busy": 0.02, "hang": 0.01, "lost": 0.02, "cut": 0.02, "malformed": 0.02, "choiceless": 0.01}
STORM |= {"empty": 0.01, "null": 0.01, "bad": 0.03, "latency": 0.005, "jitter": 0.02}


UNANSWERED = {"hang", "lost", "cut", "malformed", "choiceless"}


def test_in_a_storm_of_faults_every_request_ends_exactly_once_and_is_paid_once(tmp_path):
    """600 requests, 32 in flight, two endpoints; about one answer in seven is one of ten kinds of fault."""
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
    assert 0.9 < time.monotonic() - start < 5
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


def test_a_spent_budget_stops_the_run_and_keeps_what_was_under_way(tmp_path):
    """Each answer is 109 tokens or so; the overshoot is what was in flight, and no paid answer is thrown away."""
    with FaultyServer(latency=0.05, jitter=0.05) as server:
        here = context(tmp_path, captioner(server), {}, "s", Budget(tokens=3000))
        rows = [{"key": str(number)} for number in range(100)]
        with pytest.raises(StopRun, match="budget of 3000 tokens spent"):
            map_bounded(asking_in(here), rows, 8, event_loop(here))
        event_loop(here).run_until_complete(chat_client(here).close())
        assert 3000 <= spent(tmp_path).tokens < 3000 + 8 * 120
        assert server.answers.total() == len(server.asked) == len(here.journal)


def test_a_captioner_that_stops_the_run_lets_the_answers_of_the_others_arrive(tmp_path):
    models, kept = {}, 0
    with FaultyServer(latency=0.4) as slow, FaultyServer(latency=0.2, status=404) as unknown:
        good, bad = captioner(slow), replace(captioner(unknown), name="other")
        rows = [{"key": str(number)} for number in range(50)]
        for shard in "ab":  # the second time with the same client, in a process that is kept
            here = context(tmp_path, good, models, shard)

            async def one(row, here=here):
                options = {"key": row["key"], "journal": here.journal, "counters": here.counters, "max_tokens": 9}
                who = bad if row["key"] == "3" else good
                return await chat_client(here).ask(who, here.shard + row["key"], [JPEG], **options)

            with pytest.raises(StopRun, match="does not know this model"):
                map_bounded(one, rows, 8, event_loop(here))
            kept += len(here.journal)
        event_loop(here).run_until_complete(chat_client(here).close())
    assert len(unknown.asked) == 2
    assert slow.answers.total() == len(slow.asked) == kept == 2 * 7


def test_what_earlier_starts_and_other_workers_paid_counts(tmp_path):
    other = Ledger(tmp_path)
    other.pay(Spend(10, 900, 100, 1_500_000_000))
    with FaultyServer() as server:
        for budget in (Budget(tokens=1000), Budget(dollars=1.5)):
            (error,) = Asking(tmp_path, captioner(server), budget).ask_all([0]).values()
            assert "budget of" in str(error)
        assert not server.asked
        (answer,) = Asking(tmp_path, captioner(server), Budget(tokens=1001, dollars=1.6)).ask_all([0]).values()
        assert isinstance(answer, Answer)


def test_dollars_are_counted_exactly_however_little_one_answer_costs(tmp_path):
    rates = {"dollars_per_million_prompt_tokens": 0.003, "dollars_per_million_completion_tokens": 0.01}
    with FaultyServer() as server:
        asking = Asking(tmp_path, captioner(server, **rates))
        results = asking.ask_all(range(50))
    expected = sum(one.prompt_tokens * 0.003 + one.completion_tokens * 0.01 for one in results.values())
    assert spent(tmp_path).dollars * 1e6 == pytest.approx(expected, rel=1e-9)
    assert asking.counters["microdollars"] == int(expected + 1e-6)


def test_a_request_is_what_openai_documents(tmp_path):
    """Judged by the types of OpenAI's own package."""
    from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
    from pydantic import TypeAdapter

    with FaultyServer() as server:
        ask_one(tmp_path / "a", captioner(server, temperature=0.3), images=(JPEG, PNG), max_tokens=77)
        ask_one(tmp_path / "b", captioner(server), images=(), temperature=0.0)
        with pytest.raises(ValueError, match="JPEG or PNG"):
            ask_one(tmp_path / "c", captioner(server), images=(b"GIF89a",))
    pictures, text = (one.body for one in server.asked)
    for body in (pictures, text):
        TypeAdapter(CompletionCreateParamsNonStreaming).validate_python(body)
    assert (pictures["model"], pictures["max_tokens"], pictures["temperature"]) == ("model-1", 77, 0.3)
    assert text["temperature"] == 0.0
    assert text["messages"][0]["content"] == "Describe. 0"
    urls = [part["image_url"]["url"] for part in pictures["messages"][0]["content"][:2]]
    assert [url.split(";")[0] for url in urls] == ["data:image/jpeg", "data:image/png"]
    assert [base64.b64decode(url.split(",")[1]) for url in urls] == [JPEG, PNG]
    assert pictures["messages"][0]["content"][2] == {"type": "text", "text": "Describe. 0"}


def test_openais_own_client_reads_the_same_from_the_same_server(tmp_path):
    """So that the fake is no private invention of client and server."""
    import openai

    with FaultyServer(models=("model-1",), key=SECRET, reply=lambda asked: asked.prompt + " 漢字") as server:
        theirs = openai.OpenAI(base_url=server.url, api_key=SECRET, max_retries=0)
        messages = [{"role": "user", "content": "Describe. 0"}]
        read = theirs.chat.completions.create(model="model-1", messages=messages)
        with pytest.raises(openai.NotFoundError):
            theirs.chat.completions.create(model="model-2", messages=messages)
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=server.url, api_key="x").chat.completions.create(model="model-1", messages=messages)
    with FaultyServer(reply=lambda asked: asked.prompt + " 漢字") as server:
        ours = ask_one(tmp_path, captioner(server), images=())
    assert ours.text == read.choices[0].message.content
    assert ours.finish_reason == read.choices[0].finish_reason
    assert (ours.prompt_tokens, ours.completion_tokens) == (read.usage.prompt_tokens, read.usage.completion_tokens)


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("naïve 漢字 😀 \u200d \x00 \r\n\u2028end", "naïve 漢字 😀 \u200d \x00 \r\n\u2028end"),
        ("half \ud83d pair", "half ? pair"),
        (None, ""),
        ([{"type": "text", "text": "in "}, {"type": "text", "text": "parts"}], "in parts"),
    ],
)
def test_whatever_text_comes_is_kept_and_read_back(tmp_path, said, kept):
    with FaultyServer(reply=lambda asked: said, usage=False) as server:
        first = Asking(tmp_path, captioner(server)).ask_all([0])
        second = Asking(tmp_path, captioner(server)).ask_all([0])
    assert first == second
    assert first[0].text == kept
    assert len(server.asked) == 1


def test_many_in_flight_are_not_throttled_by_the_client(tmp_path):
    with FaultyServer(latency=0.5) as server:
        Asking(tmp_path, captioner(server)).ask_all(range(250), in_flight=250)
    assert server.most_in_flight > 200


def test_large_pictures_arrive_whole(tmp_path):
    picture = PNG + bytes(5_000_000)
    with FaultyServer(seed=2, error=0.5) as server:
        ask_one(tmp_path, captioner(server), images=(picture,))
    assert {one.images for one in server.asked} == {(picture,)}


def test_one_client_serves_a_worker_from_shard_to_shard_over_the_same_connections(tmp_path):
    models, peers = {}, set()

    class Server(FaultyServer):
        async def _answer(self, request):
            peers.add(request.transport.get_extra_info("peername"))
            return await super()._answer(request)

    with Server() as server:
        who = captioner(server)
        for shard in "abc":
            here = context(tmp_path, who, models, shard)
            rows = [{"key": f"{shard}{number}"} for number in range(20)]
            answers = map_bounded(asking_in(here), rows, 4, event_loop(here))
            assert here.counters["requests"] == 20
            assert len({answer.text for answer in answers}) == 20
        event_loop(here).run_until_complete(chat_client(here).close())
    assert len(peers) <= 4


def test_a_worker_that_ends_complains_of_nothing(tmp_path):
    script = f"""
import sys
from pathlib import Path
sys.path[:0] = {sys.path!r}
from tests.finecap.engine.captioners.test_client import asking_in, captioner, context, event_loop, map_bounded
models = {{}}
def work():
    here = context(Path({str(tmp_path)!r}), captioner(sys.argv[1]), models, "s")
    print(len(map_bounded(asking_in(here), [{{"key": str(n)}} for n in range(5)], 4, event_loop(here))))
work()
"""
    with FaultyServer() as server:
        done = subprocess.run([sys.executable, "-c", script, server.url], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "5\n", "")


def test_the_journal_holds_plain_json(tmp_path):
    with FaultyServer() as server:
        answer = ask_one(tmp_path, captioner(server))
    lines = [json.loads(line) for line in (tmp_path / "shard.journal.jsonl").read_text().splitlines() if line]
    assert lines == [{"key": "0|dense", "answer": answer._asdict()}]
