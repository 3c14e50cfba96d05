"""Servers that send no usage, lie, never end or send bombs: budgets count it, limits hold, no collection is lost."""

import asyncio
import gzip
import io
import json
import time
import zlib

import pytest
from aiohttp import web
from PIL import Image

from finecap import web as web_module
from finecap.engine.captioners import client as client_module
from finecap.engine.captioners.client import Answer, RequestRejected
from finecap.engine.captioners.ensemble import Budget
from finecap.engine.captioners.spend import estimated, spent
from finecap.engine.captioners.tokens import prompt_tokens
from finecap.errors import StopRun
from tests.support.asking import Asking, captioner
from tests.support.faulty_server import FaultyServer


def picture(width=560, height=280):
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, "JPEG")
    return buffer.getvalue()


class Saying(FaultyServer):
    """A server whose answers `change` alters: a completion in, anything out."""

    change = staticmethod(lambda completion: completion)

    def _completion(self, asked, text):
        return self.change(super()._completion(asked, text))


def saying(change, **options):
    server = Saying(**options)
    server.change = change
    return server


class Responding(FaultyServer):
    """A server that answers with what `responses` gives, one after the other, the last one for ever; None is good."""

    def __init__(self, *responses, **options):
        super().__init__(**options)
        self.responses = list(responses)

    async def _respond(self, asked, request):
        make = self.responses.pop(0) if len(self.responses) > 1 else self.responses[0]
        return await super()._respond(asked, request) if make is None else await make(request)


def body(raw, status=200, **headers):
    async def respond(request):
        return web.Response(body=raw, status=status, headers={"Content-Type": "application/json", **headers})

    return respond


def with_usage(**usage):
    return lambda completion: {**completion, "usage": usage}


NO_USAGE = {
    "none": lambda completion: {**completion, "usage": None},
    "a list": lambda completion: {**completion, "usage": [1, 2]},
    "words": with_usage(prompt_tokens="many", completion_tokens="few"),
    "fractions": with_usage(prompt_tokens=10.5, completion_tokens=0.5),
    "nothing but zeros": with_usage(prompt_tokens=0, completion_tokens=0),
    "negative": with_usage(prompt_tokens=-5, completion_tokens=-1),
}


@pytest.mark.parametrize("name", NO_USAGE)
def test_what_a_server_does_not_say_is_estimated_and_the_books_say_so(tmp_path, name):
    with saying(NO_USAGE[name], reply=lambda asked: "one two three four five six") as server:
        asking = Asking(tmp_path, captioner(server))
        answer = asyncio.run(asking.ask(0, images=(picture(),)))
    assert answer.prompt_tokens == prompt_tokens("Describe. 0", [picture()]) > 200
    assert answer.completion_tokens == 7
    assert estimated(tmp_path) == spent(tmp_path)
    assert spent(tmp_path).tokens == answer.prompt_tokens + answer.completion_tokens
    assert asking.counters["requests without usage: tokens estimated"] == 1


@pytest.mark.parametrize(("prompt", "completion"), [(120, 8), (120.0, 8.0), ("120", "8")])
def test_what_it_says_in_any_way_is_no_estimate(tmp_path, prompt, completion):
    with saying(with_usage(prompt_tokens=prompt, completion_tokens=completion)) as server:
        asking = Asking(tmp_path, captioner(server))
        (answer,) = asking.ask_all([0]).values()
    assert (answer.prompt_tokens, answer.completion_tokens) == (120, 8)
    assert estimated(tmp_path).requests == 0
    assert spent(tmp_path).tokens == 128


def test_one_count_that_is_said_is_kept_beside_an_estimate(tmp_path):
    with saying(with_usage(prompt_tokens=120)) as server:
        (answer,) = Asking(tmp_path, captioner(server)).ask_all([0]).values()
    assert answer.prompt_tokens == 120
    assert 0 < answer.completion_tokens < 40
    assert estimated(tmp_path).requests == 1


@pytest.mark.parametrize("name", NO_USAGE)
def test_a_budget_stops_a_run_whose_server_does_not_count(tmp_path, name):
    with saying(NO_USAGE[name]) as server:
        results = Asking(tmp_path, captioner(server), Budget(tokens=4000)).ask_all(range(40), in_flight=2)
    stopped = [one for one in results.values() if isinstance(one, StopRun)]
    assert 4000 <= spent(tmp_path).tokens < 4000 + 2 * 1400
    assert len(server.asked) < 6
    assert "by estimate" in str(stopped[0])


@pytest.mark.parametrize("fault", ["hang", "lost", "cut", "malformed"])
def test_requests_without_an_answer_are_counted_and_can_stop_the_run(tmp_path, quick, fault):
    """Each may be billed: the prompt, and an answer as long as it may be."""
    with FaultyServer(**{fault: 1.0}) as server:
        asking = Asking(tmp_path, captioner(server, timeout_s=0.2, max_attempts=50), Budget(tokens=5000))
        (result,) = asking.ask_all([0]).values()
    assert isinstance(result, StopRun)
    assert "budget of 5000 tokens spent" in str(result)
    assert len(server.asked) == estimated(tmp_path).requests == 4
    assert estimated(tmp_path).completion_tokens == 4 * 64


@pytest.mark.parametrize("fault", ["error", "busy"])
def test_refusals_and_errors_are_not_billed(tmp_path, quick, fault):
    with FaultyServer(**{fault: 1.0}, retry_after="0") as server:
        Asking(tmp_path, captioner(server, max_attempts=3, patience_s=0.3)).ask_all([0])
        Asking(tmp_path, captioner("http://127.0.0.1:1/v1", patience_s=0.3)).ask_all([0])
    assert server.asked
    assert spent(tmp_path).requests == 0


HUGE = json.dumps({"choices": [{"message": {"content": "x" * 50_000_000}}]}).encode()


async def _endless(request):
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    while True:
        await response.write(b" " * 2**20)


BOMBS = {
    "a long body": body(HUGE),
    "a body without end": _endless,
    "a bomb of gzip": body(gzip.compress(HUGE), **{"Content-Encoding": "gzip"}),
    "an error that is a bomb": body(gzip.compress(HUGE), status=500, **{"Content-Encoding": "gzip"}),
    "a long error": body(HUGE, status=500),
}


@pytest.mark.parametrize("name", BOMBS)
def test_no_body_is_read_beyond_what_an_answer_may_have(tmp_path, quick, name):
    with Responding(BOMBS[name]) as server:
        asking = Asking(tmp_path, captioner(server, max_attempts=2))
        (result,) = asking.ask_all([0]).values()
    assert isinstance(result, RequestRejected)
    assert len(server.asked) == 2
    assert asking.counters["answers too large"] == 2


def test_an_answer_that_a_proxy_compressed_unasked_is_read(tmp_path):
    good = json.dumps({"choices": [{"message": {"content": "A cat."}, "finish_reason": "stop"}]}).encode()
    for encoding in ("gzip", "deflate"):
        packed = gzip.compress(good) if encoding == "gzip" else zlib.compress(good)
        with Responding(body(packed, **{"Content-Encoding": encoding})) as server:
            (answer,) = Asking(tmp_path / encoding, captioner(server)).ask_all([0]).values()
        assert answer.text == "A cat."


def test_a_body_that_is_not_compressed_as_it_says_is_malformed(tmp_path, quick):
    with Responding(body(b"\x1f\x8b junk", **{"Content-Encoding": "gzip"})) as server:
        (result,) = Asking(tmp_path, captioner(server, max_attempts=2)).ask_all([0]).values()
    assert "malformed answer" in str(result)


@pytest.mark.parametrize(("length", "kept"), [(1024, 1024), (1025, 1024), (3_000_000, 1024)])
def test_an_answer_far_beyond_max_tokens_is_cut_before_it_is_kept(tmp_path, length, kept):
    with FaultyServer(reply=lambda asked: "x" * length) as server:
        asking = Asking(tmp_path, captioner(server))
        (answer,) = asking.ask_all([0]).values()  # max_tokens 64
    assert answer.text == "x" * kept
    assert answer.finish_reason == ("length" if length > kept else "stop")
    assert asking.counters["answers cut: far beyond max_tokens"] == (length > kept)
    assert asking.journal.path.stat().st_size < 2000


@pytest.mark.parametrize("reason", ["\ud83d", "x" * 100_000, ["stop"], 7])
def test_any_finish_reason_can_be_kept(tmp_path, reason):
    def change(completion):
        completion["choices"][0]["finish_reason"] = reason
        return completion

    with saying(change) as server:
        first = Asking(tmp_path, captioner(server)).ask_all([0])[0]
        again = Asking(tmp_path, captioner(server)).ask_all([0])[0]
    assert first == again
    assert len(server.asked) == 1
    assert first.finish_reason is None or len(first.finish_reason) <= 300


@pytest.mark.parametrize("status", [201, 203])
def test_a_success_by_another_number_is_an_answer(tmp_path, status):
    good = json.dumps({"choices": [{"message": {"content": "A cat."}}]}).encode()
    with Responding(body(good, status=status)) as server:
        (answer,) = Asking(tmp_path, captioner(server)).ask_all([0]).values()
    assert isinstance(answer, Answer)
    with Responding(body(b"", status=204)) as server:
        (result,) = Asking(tmp_path / "empty", captioner(server, max_attempts=1)).ask_all([0]).values()
    assert "malformed answer" in str(result)
    assert "redirect" not in str(result)


@pytest.mark.parametrize("status", [502, 503, 504, 522, 529])
def test_an_outage_behind_a_gateway_costs_the_last_picture_nothing(tmp_path, monkeypatch, status):
    """More failures than tries, with one request left: it waits, and is answered when the server is back."""
    monkeypatch.setattr(web_module, "LONGEST_WAIT", 0.01)
    monkeypatch.setattr("finecap.engine.captioners.endpoints.LONGEST_PAUSE", 0.01)
    gone = body(b"<html>Bad gateway</html>", status=status)
    with Responding(*[gone] * 15, None) as server:
        (answer,) = Asking(tmp_path, captioner(server, max_attempts=3)).ask_all([0]).values()
    assert isinstance(answer, Answer)
    assert len(server.asked) == 16
    assert estimated(tmp_path).requests == (15 if status == 504 else 0), "a gateway that gave up may be billed"


def test_an_outage_that_does_not_end_stops_the_run_and_rejects_nothing(tmp_path, quick):
    with FaultyServer(status=502) as server:
        results = Asking(tmp_path, captioner(server, patience_s=1.0)).ask_all(range(6))
    assert {type(one) for one in results.values()} == {StopRun}
    assert "502" in str(results[0])


SECRET = "sk-hunter2/0123456789"


@pytest.mark.parametrize(
    "answer",
    [
        lambda key: b'{"choices": [' + json.dumps(key).replace("/", "\\/").encode(),
        lambda key: b'{"choices": [' + b" " * 1990 + json.dumps(key).encode(),
        lambda key: b"<html>" + json.dumps(key).replace("/", "&#47;").encode(),
    ],
    ids=["escaped", "at the cut", "in HTML"],
)
@pytest.mark.parametrize("status", [200, 400, 500])
def test_an_echoed_key_is_in_no_reason_however_it_is_spelled(tmp_path, monkeypatch, quick, answer, status):
    monkeypatch.setenv("CAPTION_KEY", SECRET)
    with Responding(body(answer(SECRET), status=status)) as server:
        who = captioner(server, api_key_env="CAPTION_KEY", max_attempts=1)
        (result,) = Asking(tmp_path, who).ask_all([0]).values()
    assert isinstance(result, RequestRejected)
    assert "[key]" in str(result) or len(str(result)) > 250
    assert "hunter2" not in str(result)


def test_a_hostile_server_does_not_hold_up_the_worker(tmp_path, monkeypatch, quick):
    """A body of the largest size, full of what looks like the beginning of the key."""
    monkeypatch.setenv("CAPTION_KEY", SECRET)
    echo = b"\\\\\\\\sk-hunter2" * (web_module.MAX_ANSWER_BYTES // 16)
    with Responding(body(echo)) as server:
        who = captioner(server, api_key_env="CAPTION_KEY", max_attempts=1)
        start = time.process_time()
        (result,) = Asking(tmp_path, who).ask_all([0]).values()
    assert time.process_time() - start < 2
    assert isinstance(result, RequestRejected)
    assert len(str(result)) < 2 * client_module.LONGEST_REASON
