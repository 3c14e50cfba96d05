"""What a request holds, what is kept of its answer, and how a worker keeps its connections."""

import base64
import json
import subprocess
import sys

import pytest

from finecap.engine.captioners.client import chat_client
from finecap.engine.running.concurrency import event_loop, map_bounded
from tests.support.asking import JPEG, PNG, SECRET, Asking, ask_one, asking_in, captioner, context
from tests.support.faulty_server import FaultyServer


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
from finecap.engine.running.concurrency import event_loop, map_bounded
from tests.support.asking import asking_in, captioner, context
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
