"""Asking captioners over HTTP: OpenAI's chat format, several endpoints, retries, a budget, and every answer paid once.

A request ends exactly once: as an `Answer`, as `RequestRejected` (this image is set aside with the reason), or with
the whole run as `StopRun`.
"""

from __future__ import annotations

import asyncio
import io
import re
import weakref
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple

import aiohttp

from finecap.engine.captioners.api_key import ApiKey
from finecap.engine.captioners.chat_format import Completion, chat_body, error_text, read_completion
from finecap.engine.captioners.endpoints import Endpoint, Endpoints
from finecap.engine.captioners.ensemble import Budget, Captioner
from finecap.engine.captioners.spend import Ledger, price
from finecap.engine.captioners.tokens import MOST_CHARACTERS_PER_TOKEN, prompt_tokens, text_tokens
from finecap.engine.contract import Context
from finecap.engine.counters import COMPLETION_TOKENS, PROMPT_TOKENS
from finecap.engine.running.journal import Journal
from finecap.errors import StopRun
from finecap.web import (
    GATEWAY_TIMEOUTS,
    UNSEEN,
    BodyTooLarge,
    Tries,
    is_unconnected,
    may_pass,
    read_answer,
    retry_after,
    session,
    timeout,
)

# A recipe is wrong, not the images, when this many first requests of a captioner are all refused.
REFUSED_TO_STOP = 20
# Bodies above this go to aiohttp as a stream: it would copy and send larger bytes in one piece.
STREAM_BYTES = 2**20
LONGEST_REASON, LONGEST_SEARCHED = 300, 20_000
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


class Answer(NamedTuple):
    """What a captioner said.

    Attributes:
        text: may be empty; null is "".
        prompt_tokens, completion_tokens: as the server counts them; estimated where it does not say.
        captioner: name of the captioner.
        finish_reason: "stop", "length" (also of an answer that was cut here), "content_filter", ...; None from servers
            that do not say.
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
    key: ApiKey
    answered: bool = False
    refused: int = 0


@dataclass
class _Call:
    """One request on its way."""

    captioner: Captioner
    state: _State
    prompt: str
    images: Sequence[bytes]
    body: bytes
    max_tokens: int
    counters: Counter[str]
    tries: Tries
    failed_at: Endpoint | None = None

    def clean(self, text: str) -> str:
        """A server's text without the key, which some echo, and cut to what fits into a reason."""
        return " ".join(self.state.key.hidden(text, LONGEST_SEARCHED).split())[:LONGEST_REASON]


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
        tries = Tries(captioner.max_attempts, captioner.patience_s)
        call = _Call(captioner, self._state(captioner), prompt, images, body, max_tokens, counters, tries)
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
            self._states[captioner] = _State(endpoints, ApiKey.of(captioner))
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
            failed = _connection_failure(call, error)
            if not failed.unseen:
                self._pay_unanswered(call)
            return failed
        if raw is None:
            call.counters["answers too large"] += 1
        if 200 <= status < 300:  # some gateways create (201) what they answer
            return self._completion(call, endpoint, raw)
        call.counters[str(status)] += 1
        text = call.clean(f"{status} {error_text(raw or b'')}")
        if may_pass(status):
            if status < 500:
                call.state.endpoints.answered(endpoint)
            if "insufficient_quota" in text:  # what OpenAI calls no credit left, under status 429
                raise StopRun(f"captioner {call.captioner.name}: {text} ({endpoint.url})")
            if (seconds := retry_after(headers)) is not None:
                call.state.endpoints.rest(endpoint, seconds, text)
            if status in GATEWAY_TIMEOUTS:
                self._pay_unanswered(call)
            return _Failed(text, down=status >= 500, unseen=status in UNSEEN)
        call.state.endpoints.answered(endpoint)
        raise _refusal(call, endpoint, status, text)

    async def _post(self, call: _Call, endpoint: Endpoint) -> tuple[int, Mapping[str, str], bytes | None]:
        """Status, headers and body; no body if it is too large to be an answer."""
        async with self._connections().post(
            f"{endpoint.url}/chat/completions",
            data=io.BytesIO(call.body) if len(call.body) > STREAM_BYTES else call.body,
            headers={"Content-Type": "application/json", **call.state.key.headers()},
            timeout=timeout(call.captioner.timeout_s),
            allow_redirects=False,  # the key goes nowhere else
        ) as response:
            try:
                return response.status, response.headers, await read_answer(response)
            except BodyTooLarge:
                return response.status, response.headers, None

    def _connections(self) -> aiohttp.ClientSession:
        """Made within the event loop, kept from shard to shard."""
        if self._session is None:
            self._session = session(aiohttp.TCPConnector(limit=0))  # `in_flight` of the passes is the limit
            weakref.finalize(self, _close_at_end, self._session, asyncio.get_running_loop())
        return self._session

    def _completion(self, call: _Call, endpoint: Endpoint, raw: bytes | None) -> Answer | _Failed:
        """Read and pay an answer with a status of success."""
        if raw is None:
            self._pay_unanswered(call)
            return _Failed("malformed answer: too large to be one", down=True)
        read = read_completion(raw)
        if read.text is None:
            call.counters["malformed answers"] += 1
            self._pay(call, read, call.max_tokens)
            return _Failed(f"malformed answer {call.clean(raw.decode('utf-8', 'replace'))!r}", down=True)
        paid = self._pay(call, read, text_tokens(read.text))
        call.state.answered = True
        call.state.endpoints.succeeded(endpoint)
        longest, reason = MOST_CHARACTERS_PER_TOKEN * call.max_tokens, read.finish_reason
        if len(read.text) > longest:
            call.counters["answers cut: far beyond max_tokens"] += 1
            reason = "length"
        reason = None if reason is None else call.clean(reason)
        return Answer(call.state.key.hidden(read.text, longest), *paid, call.captioner.name, reason)

    def _pay_unanswered(self, call: _Call) -> None:
        """A server may have worked on the request to the end, and bill it, though no answer arrived."""
        self._pay(call, Completion(None, None, None, None), call.max_tokens)

    def _pay(self, call: _Call, said: Completion, completion_tokens: int) -> tuple[int, int]:
        """Pay what the server says, and an estimate of what it does not say; no request has 0 prompt tokens.

        Args:
            completion_tokens: the estimate.

        Returns:
            Prompt and completion tokens as paid.
        """
        prompt = said.prompt_tokens or prompt_tokens(call.prompt, call.images)
        completion = said.completion_tokens or completion_tokens
        estimated = not said.prompt_tokens or completion != said.completion_tokens
        if estimated:
            call.counters["requests without usage: tokens estimated"] += 1
        spend = price(call.captioner, prompt, completion)
        self._ledger.pay(spend, estimated)
        call.counters[PROMPT_TOKENS] += prompt
        call.counters[COMPLETION_TOKENS] += completion
        microdollars, self._nanodollars = divmod(self._nanodollars + spend.nanodollars, 1000)
        if microdollars:
            call.counters["microdollars"] += microdollars
        return prompt, completion

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
            f"budget of {limit} spent: {total.requests} requests, {total.tokens} tokens, {total.dollars:.2f} dollars"
            f"{self._ledger.estimate()}. "
            "What is done is kept; raise `budget` in the recipe and run the same command again to go on."
        )

    async def _before_next_try(self, call: _Call, failure: _Failed) -> None:
        """Wait, unless the request has failed for good."""
        captioner = call.captioner
        ended = call.tries.failed(failure.unseen)
        if ended and failure.unseen and call.state.endpoints.silent():
            raise StopRun(
                f"captioner {captioner.name}: no answer {ended}, only {failure.text} "
                f"({', '.join(captioner.endpoints)}). Run the same command again to go on."
            )
        if ended:
            raise RequestRejected(f"captioner failed: {failure.text} ({ended})")
        call.counters["retries"] += 1
        await call.tries.wait()


def chat_client(context: Context) -> ChatClient:
    """The worker's one client; to be used in `concurrency.event_loop(context)`."""
    return context.load("chat client", lambda: ChatClient(context.out, context.settings.budget))


def _connection_failure(call: _Call, error: Exception) -> _Failed:
    unseen = is_unconnected(error)
    if isinstance(error, TimeoutError):
        kind = "time-outs"
        text = f"no {'connection' if unseen else 'answer'} within {call.captioner.timeout_s:g} s"
    else:
        kind = "connections lost"
        text = f"connection {'not made' if unseen else 'lost'}, {type(error).__name__} {call.clean(str(error))}"
    call.counters[kind] += 1
    return _Failed(text, down=True, unseen=unseen)


def _refusal(call: _Call, endpoint: Endpoint, status: int, text: str) -> Exception:
    """What to raise for a status that would come again."""
    captioner = call.captioner
    who = f"captioner {captioner.name}, model {captioner.model!r} at {endpoint.url}"
    if status in HOPELESS and not (status == HTTPStatus.FORBIDDEN and FLAGGED.search(text)):
        variable = captioner.api_key_env
        whose = f"key from the variable {variable}" if variable else "no key is sent, for api_key_env is not set"
        return StopRun(f"{who} ({whose}): {HOPELESS[status]}; the server says {text!r}")
    if 300 <= status < 400:
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
