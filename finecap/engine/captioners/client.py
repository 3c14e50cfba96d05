"""Asking captioners over HTTP: OpenAI's chat format, several endpoints, retries, a budget, and every answer paid once.

A request ends exactly once: as an `Answer`, as `RequestRejected` (this image is set aside with the reason), or with
the whole run as `StopRun`.
"""

from __future__ import annotations

import asyncio
import io
import os
import random
import re
import time
import weakref
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple

import aiohttp

from finecap.engine.captioners.chat_format import chat_body, error_text, read_completion, retry_after
from finecap.engine.captioners.endpoints import Endpoint, Endpoints
from finecap.engine.captioners.ensemble import Budget, Captioner
from finecap.engine.captioners.spend import Ledger, price
from finecap.engine.contract import Context
from finecap.engine.counters import COMPLETION_TOKENS, PROMPT_TOKENS
from finecap.engine.running.journal import Journal
from finecap.errors import StopRun

# The wait before try n+1 is drawn from 0 to FIRST_WAIT * 2^n seconds ("full jitter": AWS Architecture Blog,
# "Exponential Backoff And Jitter", 2015).
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0
CONNECT_SECONDS = 15.0
# A recipe is wrong, not the images, when this many first requests of a captioner are all refused.
REFUSED_TO_STOP = 20
# Bodies above this go to aiohttp as a stream: it would copy and send larger bytes in one piece.
STREAM_BYTES = 2**20
WORDS_TO_TOKENS = 4 / 3
# The server refuses this client, or does not know what is asked for: no other request would fare better.
HOPELESS = {
    401: "the key is wrong",
    402: "there is no credit left",
    403: "the key may not use this model",
    404: "the server does not know this model or path",
    405: "there is no chat API at this URL",
}
# But 403 is also what OpenRouter answers to one picture that its moderation flags (its "Errors" page).
FLAGGED = re.compile(r"\bflagged\b|\bmoderation\b", re.IGNORECASE)
TRY_AGAIN = {408, 409, 425, 429}


class Answer(NamedTuple):
    """What a captioner said.

    Attributes:
        text: may be empty; null is "".
        prompt_tokens, completion_tokens: as the server counts them.
        captioner: name of the captioner.
        finish_reason: "stop", "length", "content_filter", ...; None from servers that do not say.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    captioner: str
    finish_reason: str | None


class RequestRejected(Exception):
    """This one request failed for good; the text is "kind: detail", fit for `reject`."""


@dataclass(frozen=True)
class _Failed:
    """One try that another may follow.

    Attributes:
        text: what happened, without the key.
        down: the endpoint as a whole seems to be down.
        unseen: the server did not work on it (no connection, too busy), so it does not count as a try.
    """

    text: str
    down: bool = False
    unseen: bool = False


@dataclass
class _State:
    """What this process knows of a captioner."""

    endpoints: Endpoints
    answered: bool = False
    refused: int = 0


@dataclass
class _Call:
    """One request on its way."""

    captioner: Captioner
    state: _State
    body: bytes
    secret: str | None = field(repr=False)
    counters: Counter[str]
    tries: int = 0
    waits: int = 0
    unseen_since: float | None = None
    failed_at: Endpoint | None = None

    def headers(self) -> dict[str, str]:
        """Of the request; the only place that the key goes to."""
        there = {"Content-Type": "application/json", "User-Agent": "finecap"}
        return there if self.secret is None else {**there, "Authorization": f"Bearer {self.secret}"}

    def clean(self, text: str) -> str:
        """A server's text without the key, which some echo, and cut to what fits into a reason."""
        return " ".join(self.redact(text).split())[:300]

    def redact(self, text: str) -> str:
        """Without the key, and without what UTF-8 cannot hold (half a surrogate pair, as JSON may)."""
        if self.secret:
            text = text.replace(self.secret, "[key]")
        return text.encode("utf-8", "replace").decode()


class ChatClient:
    """The one client of a worker process: its connections, its routing, its books. For use in one event loop."""

    def __init__(self, out: Path, budget: Budget) -> None:
        self._budget = budget
        self._ledger = Ledger(out)
        self._states: dict[Captioner, _State] = {}
        self._session: aiohttp.ClientSession | None = None
        self._journal: Journal | None = None
        self._stop: StopRun | None = None
        self._sending = 0
        self._none_sending = asyncio.Event()
        self._nanodollars = 0  # paid and not yet in a counter

    async def ask(
        self,
        captioner: Captioner,
        prompt: str,
        images: Sequence[bytes],
        *,
        key: str,
        journal: Journal,
        counters: Counter[str],
        max_tokens: int,
        temperature: float | None = None,
    ) -> Answer:
        """The answer to one prompt about some pictures: the one in the journal, or a new one that goes there.

        Args:
            images: encoded JPEG or PNG; they come before the prompt.
            key: of the answer in the journal; unique in the pass and shard, the same in every start.
            temperature: None for the captioner's own.

        Raises:
            RequestRejected: the server refuses this request, or it failed `captioner.max_attempts` times.
            StopRun: wrong or missing key, unknown model, spent budget, all endpoints down, nothing but refusals.
            ValueError: a picture is neither JPEG nor PNG.
        """
        known = journal.get(key)
        if known is not None:
            counters["answers from the journal"] += 1
            return Answer(**known)
        body = chat_body(captioner, prompt, images, max_tokens, temperature)
        call = _Call(captioner, self._state(captioner), body, _secret(captioner), counters)
        if journal is not self._journal:  # another shard: what stopped the last one is over
            self._journal, self._stop = journal, None
        try:
            while isinstance(outcome := await self._try(call), _Failed):
                await self._before_next_try(call, outcome)
        except StopRun as stop:
            await self._let_finish(stop)
            raise
        journal.put(key, outcome._asdict())
        return outcome

    async def close(self) -> None:
        """Close connections and books."""
        if self._session is not None:
            await self._session.close()
            self._session = None
        self._ledger.close()

    def _state(self, captioner: Captioner) -> _State:
        if captioner not in self._states:
            endpoints = Endpoints(captioner.name, captioner.endpoints, captioner.patience_s)
            self._states[captioner] = _State(endpoints)
        return self._states[captioner]

    async def _try(self, call: _Call) -> Answer | _Failed:
        async with call.state.endpoints.place(avoid=call.failed_at) as endpoint:
            self._check_budget()
            if self._stop is not None:
                raise StopRun(str(self._stop))
            call.counters["requests"] += 1
            self._sending += 1
            self._none_sending.clear()
            try:
                outcome = await self._exchange(call, endpoint)
            finally:
                self._sending -= 1
                if not self._sending:
                    self._none_sending.set()
            if isinstance(outcome, _Failed):
                call.failed_at = endpoint
                if outcome.down:
                    call.state.endpoints.failed(endpoint, outcome.text)
            return outcome

    async def _exchange(self, call: _Call, endpoint: Endpoint) -> Answer | _Failed:
        """Send once, and judge what comes back."""
        try:
            status, headers, raw = await self._post(call, endpoint)
        except (aiohttp.ClientError, OSError) as error:
            return _connection_failure(call, error)
        if status == HTTPStatus.OK:
            return self._completion(call, endpoint, raw)
        call.counters[str(status)] += 1
        text = call.clean(f"{status} {error_text(raw)}")
        if status >= 500 or status in TRY_AGAIN:
            if status < 500:
                call.state.endpoints.answered(endpoint)
            if "insufficient_quota" in text:  # what OpenAI calls no credit left, under status 429
                raise StopRun(f"captioner {call.captioner.name}: {text} ({endpoint.url})")
            if (seconds := retry_after(headers)) is not None:
                call.state.endpoints.rest(endpoint, seconds, text)
            return _Failed(text, down=status >= 500, unseen=status in (429, 503))
        call.state.endpoints.answered(endpoint)
        raise _refusal(call, endpoint, status, text)

    async def _post(self, call: _Call, endpoint: Endpoint) -> tuple[int, Mapping[str, str], bytes]:
        seconds = call.captioner.timeout_s
        async with self._connections().post(
            f"{endpoint.url}/chat/completions",
            data=io.BytesIO(call.body) if len(call.body) > STREAM_BYTES else call.body,
            headers=call.headers(),
            timeout=aiohttp.ClientTimeout(total=seconds, sock_connect=min(CONNECT_SECONDS, seconds)),
            allow_redirects=False,  # the key goes nowhere else
        ) as response:
            return response.status, response.headers, await response.read()

    def _connections(self) -> aiohttp.ClientSession:
        """Made within the event loop, kept from shard to shard."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),  # `in_flight` of the passes is the limit
                cookie_jar=aiohttp.DummyCookieJar(),
            )
            weakref.finalize(self, _close_at_end, self._session, asyncio.get_running_loop())
        return self._session

    def _completion(self, call: _Call, endpoint: Endpoint, raw: bytes) -> Answer | _Failed:
        """Read and pay an answer with status 200."""
        text, finish_reason, usage = read_completion(raw)
        if text is None:
            if usage:
                self._pay(call, *usage)
            call.counters["malformed answers"] += 1
            return _Failed(f"malformed answer {call.clean(raw.decode('utf-8', 'replace')[:2000])!r}", down=True)
        if usage is None:
            call.counters["answers without usage"] += 1
            usage = 0, round(len(text.split()) * WORDS_TO_TOKENS)
        self._pay(call, *usage)
        call.state.answered = True
        call.state.endpoints.succeeded(endpoint)
        return Answer(call.redact(text), *usage, call.captioner.name, finish_reason)

    def _pay(self, call: _Call, prompt_tokens: int, completion_tokens: int) -> None:
        spend = price(call.captioner, prompt_tokens, completion_tokens)
        self._ledger.pay(spend)
        call.counters[PROMPT_TOKENS] += prompt_tokens
        call.counters[COMPLETION_TOKENS] += completion_tokens
        microdollars, self._nanodollars = divmod(self._nanodollars + spend.nanodollars, 1000)
        if microdollars:
            call.counters["microdollars"] += microdollars

    async def _let_finish(self, stop: StopRun) -> None:
        """Send nothing more and wait for what is under way: it is paid, and the run's end would throw it away."""
        self._stop = stop
        while self._sending:
            await self._none_sending.wait()

    def _check_budget(self) -> None:
        budget = self._budget
        if budget.tokens is None and budget.dollars is None:
            return
        total = self._ledger.total()
        if budget.tokens is not None and total.tokens >= budget.tokens:
            limit = f"{budget.tokens} tokens"
        elif budget.dollars is not None and total.dollars >= budget.dollars:
            limit = f"{budget.dollars:g} dollars"
        else:
            return
        raise StopRun(
            f"budget of {limit} spent: {total.requests} answers, {total.tokens} tokens, {total.dollars:.2f} dollars. "
            "What is done is kept; raise `budget` in the recipe and run the same command again to go on."
        )

    async def _before_next_try(self, call: _Call, failure: _Failed) -> None:
        """Wait with full jitter, unless the request has failed for good."""
        captioner, now = call.captioner, time.monotonic()
        if failure.unseen:
            call.unseen_since = now if call.unseen_since is None else call.unseen_since
            if now - call.unseen_since >= captioner.patience_s:
                if call.state.endpoints.silent():
                    raise StopRun(
                        f"captioner {captioner.name}: no answer for {captioner.patience_s:g} s, only {failure.text} "
                        f"({', '.join(captioner.endpoints)}). Run the same command again to go on."
                    )
                raise RequestRejected(f"captioner failed: {failure.text}, for {captioner.patience_s:g} s")
        else:
            call.unseen_since = None
            call.tries += 1
            if call.tries >= captioner.max_attempts:
                raise RequestRejected(f"captioner failed: {failure.text} ({call.tries} tries)")
        call.counters["retries"] += 1
        await asyncio.sleep(random.uniform(0, min(LONGEST_WAIT, FIRST_WAIT * 2 ** min(call.waits, 16))))
        call.waits += 1


def chat_client(context: Context) -> ChatClient:
    """The worker's one client; to be used in `concurrency.event_loop(context)`."""
    return context.load("chat client", lambda: ChatClient(context.out, context.settings.budget))


def _secret(captioner: Captioner) -> str | None:
    if captioner.api_key_env is None:
        return None
    secret = os.environ.get(captioner.api_key_env, "").strip()
    if not secret or not secret.isascii() or not secret.isprintable():
        what = "holds characters that no key has" if secret else "is not set"
        raise StopRun(
            f"captioner {captioner.name}: the environment variable {captioner.api_key_env} {what}; it must hold the "
            f"key for {captioner.endpoints[0]}, in every worker"
        )
    return secret


def _connection_failure(call: _Call, error: Exception) -> _Failed:
    unseen = isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)
    if isinstance(error, TimeoutError):
        kind = "time-outs"
        text = f"no {'connection' if unseen else 'answer'} within {call.captioner.timeout_s:g} s"
    else:
        kind = "connections lost"
        text = f"connection {'not made' if unseen else 'lost'}, {type(error).__name__} {call.clean(str(error))}"
    call.counters[kind] += 1
    return _Failed(text, down=True, unseen=unseen)


def _refusal(call: _Call, endpoint: Endpoint, status: int, text: str) -> Exception:
    """What to raise for a status that no second try mends."""
    captioner = call.captioner
    who = f"captioner {captioner.name}, model {captioner.model!r} at {endpoint.url}"
    if status in HOPELESS and not (status == HTTPStatus.FORBIDDEN and FLAGGED.search(text)):
        variable = captioner.api_key_env
        whose = f"key from the variable {variable}" if variable else "no key is sent, for api_key_env is not set"
        return StopRun(f"{who} ({whose}): {HOPELESS[status]}; the server says {text!r}")
    if status < 400:
        return StopRun(f"{who}: the server answers {text!r}; write the URL in `endpoints` that does not redirect")
    call.state.refused += 1
    if not call.state.answered and call.state.refused >= REFUSED_TO_STOP:
        return StopRun(f"{who}: the first {call.state.refused} requests were all refused; the last one with {text!r}")
    return RequestRejected(f"captioner refused the request: {text}")


def _close_at_end(session: aiohttp.ClientSession, loop: asyncio.AbstractEventLoop) -> None:
    """When the worker ends, or nobody has the client any more."""
    # The garbage collector may come by while another loop of this thread runs; then closing must be left to aiohttp.
    if not session.closed and not loop.is_closed() and asyncio._get_running_loop() is None:
        loop.run_until_complete(session.close())
