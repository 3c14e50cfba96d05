"""A chat server on loopback that fails as real ones do, for tests of everything that asks captioners.

    with FaultyServer(seed=1, error=0.02, busy=0.02, hang=0.01) as server:
        captioner = Captioner("fake", "fake-model", (server.url,), timeout_s=1)
        ...
    assert server.answers[...] == 1

It runs in a thread of the test's process; other processes reach it by `server.url`. Which fault a request meets is a
function of the seed, of what it asks and of how often it was asked before, so runs are repeatable in any order; the
answer is a function of what it asks alone. `reply=` takes a function of the `Asked` to answer something else.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from aiohttp import web

FAULTS = ("error", "busy", "hang", "lost", "cut", "malformed", "choiceless", "empty", "null")


@dataclass(frozen=True)
class Asked:
    """One request: `identity` is a hash of all it asks, `before` how often that was asked already."""

    identity: str
    before: int
    prompt: str
    images: tuple[bytes, ...]
    body: dict = field(repr=False)
    authorization: str | None = field(repr=False)
    fault: str | None
    at: float


def default_reply(asked: Asked) -> str:
    """A caption that differs from request to request, with letters beyond ASCII and beyond 16 bits."""
    return f"A picture called {asked.identity[:12]}, «naïve 漢字 😀»."


@dataclass
class FaultyServer:
    """Rates are probabilities of one request; they add up to at most 1.

    Attributes:
        error: status 500. busy: 429 with Retry-After `retry_after`. hang: no answer.
        lost: the connection is cut before the answer. cut: in the middle of its body.
        malformed: no JSON. choiceless: JSON without choices.
        empty, null: an answer whose content is "" or null.
        bad: share of the requests that are answered 400 whenever they are asked, by any of these servers.
        latency, jitter: seconds an answer takes, and at most as much more.
        key: what "Authorization: Bearer" must hold, else 401 (which echoes what was sent).
        models: names it knows, else 404; None for any.
        status: when set, every request gets this status.
        asked: every request in the order of arrival.
        answers: how often each identity got a good answer, which is what a provider would bill.
    """

    seed: int = 0
    error: float = 0.0
    busy: float = 0.0
    hang: float = 0.0
    lost: float = 0.0
    cut: float = 0.0
    malformed: float = 0.0
    choiceless: float = 0.0
    empty: float = 0.0
    null: float = 0.0
    bad: float = 0.0
    latency: float = 0.0
    jitter: float = 0.0
    retry_after: str = "0.05"
    key: str | None = None
    models: tuple[str, ...] | None = None
    status: int | None = None
    usage: bool = True
    reply: object = default_reply
    port: int = 0
    asked: list[Asked] = field(default_factory=list)
    answers: Counter = field(default_factory=Counter)
    in_flight: int = 0
    most_in_flight: int = 0

    def __enter__(self) -> FaultyServer:
        self._times: Counter = Counter()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()
        return self

    def __exit__(self, *_) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @contextmanager
    def down(self) -> Iterator[None]:
        """The server is gone inside the block (connections cut, port closed) and back, on the same port, after it."""
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        yield
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def paid_twice(self) -> int:
        """Good answers beyond the first to the same request."""
        return sum(times - 1 for times in self.answers.values())

    async def _start(self) -> None:
        app = web.Application(client_max_size=2**28)
        app.router.add_post("/v1/chat/completions", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, backlog=1024)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def _stop(self) -> None:
        await self._runner.cleanup()
        hanging = asyncio.all_tasks() - {asyncio.current_task()}
        for task in hanging:
            task.cancel()
        await asyncio.gather(*hanging, return_exceptions=True)

    def _draw(self, *what: object) -> float:
        digest = hashlib.sha256(":".join(map(str, what)).encode()).digest()
        return int.from_bytes(digest[:8], "big") / 2**64

    def _fault(self, identity: str, before: int) -> str | None:
        if self._draw("bad", identity) < self.bad:
            return "bad"
        draw = self._draw("fault", self.seed, identity, before)
        for name in FAULTS:
            draw -= getattr(self, name)
            if draw < 0:
                return name
        return None

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        identity = hashlib.sha256(raw).hexdigest()
        before = self._times[identity]
        self._times[identity] += 1
        body = json.loads(raw)
        prompt, images = _content(body["messages"])
        fault = self._fault(identity, before)
        authorization = request.headers.get("Authorization")
        asked = Asked(identity, before, prompt, images, body, authorization, fault, time.monotonic())
        self.asked.append(asked)
        self.in_flight += 1
        self.most_in_flight = max(self.in_flight, self.most_in_flight)
        try:
            await asyncio.sleep(self.latency + self.jitter * self._draw("jitter", self.seed, identity, before))
            return await self._respond(asked, request)
        finally:
            self.in_flight -= 1

    async def _respond(self, asked: Asked, request: web.Request) -> web.StreamResponse:
        if self.status is not None:
            return _error(self.status, f"status {self.status} for {asked.authorization}")
        if self.key is not None and asked.authorization != f"Bearer {self.key}":
            return _error(401, f"Incorrect API key provided: {asked.authorization}")
        if self.models is not None and asked.body["model"] not in self.models:
            return _error(404, f"The model `{asked.body['model']}` does not exist.")
        match asked.fault:
            case "bad":
                return _error(400, "Invalid image.")
            case "error":
                return _error(500, "Internal server error")
            case "busy":
                return _error(429, "Rate limit reached", {"Retry-After": self.retry_after})
            case "hang":
                await asyncio.sleep(3600)
            case "lost":
                request.transport.abort()
                return web.Response()
            case "cut":
                return await self._cut(request, asked)
            case "malformed":
                return web.Response(text='{"choices": [{"mess', content_type="application/json")
            case "choiceless":
                return web.json_response({"object": "chat.completion", "choices": []})
        content = {"empty": "", "null": None}.get(asked.fault, ...)
        self.answers[asked.identity] += 1
        return web.json_response(self._completion(asked, self.reply(asked) if content is ... else content))

    async def _cut(self, request: web.Request, asked: Asked) -> web.StreamResponse:
        body = json.dumps(self._completion(asked, self.reply(asked))).encode()
        response = web.StreamResponse(headers={"Content-Length": str(len(body)), "Content-Type": "application/json"})
        await response.prepare(request)
        await response.write(body[: len(body) // 2])
        await asyncio.sleep(0.005)  # so that the half arrives before the end does
        request.transport.abort()
        return response

    def _completion(self, asked: Asked, text: str | None) -> dict:
        completion = {
            "id": f"chatcmpl-{asked.identity[:8]}",
            "object": "chat.completion",
            "created": int(asked.at),
            "model": asked.body["model"],
            "choices": [
                {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"},
            ],
        }
        if self.usage:
            prompt, words = 100 * len(asked.images) + len(asked.prompt.split()), len((text or "").split())
            completion["usage"] = {"prompt_tokens": prompt, "completion_tokens": words, "total_tokens": prompt + words}
        return completion


def _content(messages: list[dict]) -> tuple[str, tuple[bytes, ...]]:
    texts, images = [], []
    for message in messages:
        parts = message["content"]
        for part in [{"type": "text", "text": parts}] if isinstance(parts, str) else parts:
            if part["type"] == "text":
                texts.append(part["text"])
            else:
                images.append(base64.b64decode(part["image_url"]["url"].partition(",")[2]))
    return "\n".join(texts), tuple(images)


def _error(status: int, message: str, headers: dict | None = None) -> web.Response:
    return web.json_response({"error": {"message": message, "code": status}}, status=status, headers=headers)
