"""A detector behind a URL (`finecap.engine.detectors.server`)."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from typing import Annotated, Any

import aiohttp
from PIL import Image
from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from finecap.engine.captioners.endpoints import Endpoint, Endpoints
from finecap.engine.detectors.detector import Detection, DetectionFailed, jpeg
from finecap.errors import StopRun
from finecap.web import (
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

# As of captioners (`Captioner`): seconds for one request, tries, and seconds to wait for a server that is down.
TIMEOUT_S, MAX_ATTEMPTS, PATIENCE_S = 120.0, 6, 600.0
# Grounding DINO finds at most 900 in one text; comparing far more with one another would hold the worker up.
MOST_DETECTIONS = 10_000


@dataclass(frozen=True)
class Reply:
    """Body of an answer, to /detect; that to /health has no `detections`."""

    detector: str
    detections: Annotated[tuple[Detection, ...], Field(max_length=MOST_DETECTIONS)] = ()


class _Failed(Exception):
    """One try failed and another may not.

    Attributes:
        unseen: nobody worked on it (a proxy without its server), so it does not count as a try.
    """

    def __init__(self, text: str, unseen: bool = False) -> None:
        super().__init__(text)
        self.unseen = unseen


class ServedDetector:
    """Asks a server for the boxes. Lost connections, time-outs and what `finecap.web.may_pass` says are tried again,
    not before the server wants it; when it stays down the run stops, for no other picture would fare better.
    """

    def __init__(self, url: str, min_score: float, patience_s: float = PATIENCE_S) -> None:
        self.name = ""
        self._url, self._min_score, self._patience = url, min_score, patience_s
        self._endpoints = Endpoints(f"behind boxes.url (detector {url})", [url], patience_s)

    @classmethod
    async def open(cls, url: str, min_score: float, patience_s: float = PATIENCE_S) -> ServedDetector:
        """Connect and ask what detector is there.

        Raises:
            StopRun: there is none.
        """
        detector = cls(url, min_score, patience_s)
        try:
            detector.name = (await detector._request("/health", None)).detector
        except DetectionFailed as error:
            raise StopRun(f"boxes.url: no detector answers at {url} ({error}); expected a detector server") from error
        return detector

    async def detect(self, image: Image.Image, phrases: Sequence[str]) -> list[Detection]:
        """See `Detector.detect`."""
        if not phrases:
            return []
        data = base64.b64encode(jpeg(image)).decode()
        question = {
            "image": f"data:image/jpeg;base64,{data}",
            "phrases": list(phrases),
            "min_score": self._min_score,
        }
        reply = await self._request("/detect", question)
        if reply.detector != self.name:
            raise StopRun(
                f"boxes.url: {self._url} was {self.name!r} and is {reply.detector!r} now. Records of one run come "
                "from one detector: start the first one again, or a new run."
            )
        if not all(0 <= item.phrase < len(phrases) for item in reply.detections):
            raise DetectionFailed(f"detector failed: {self._url} answers for phrases that were not asked for")
        return list(reply.detections)

    async def _request(self, path: str, question: dict[str, Any] | None) -> Reply:
        tries = Tries(MAX_ATTEMPTS, self._patience)
        while True:
            async with self._endpoints.place() as endpoint:
                try:
                    return await self._try(endpoint, path, question)
                except (_Failed, aiohttp.ClientError, OSError) as error:
                    text = " ".join(f"{type(error).__name__.strip('_')} {error}".split())
                    # `place` waits while no connection is made, and ends the run when it has waited long enough.
                    unseen = is_unconnected(error) or getattr(error, "unseen", False)
                    self._endpoints.failed(endpoint, text)
            ended = tries.failed(unseen)
            if ended and unseen and self._endpoints.silent():
                raise StopRun(
                    f"boxes.url: no answer of {self._url} {ended}, only {text}. Run the same command again to go on."
                )
            if ended:
                raise DetectionFailed(f"detector failed: {text} ({ended})")
            await tries.wait()

    async def _try(self, endpoint: Endpoint, path: str, question: dict[str, Any] | None) -> Reply:
        method, url = "GET" if question is None else "POST", endpoint.url + path
        # A new connection for each picture: it costs a millisecond, detection a hundred, and none has to be closed.
        async with (
            session() as connections,
            connections.request(method, url, json=question, timeout=timeout(TIMEOUT_S)) as response,
        ):
            try:
                content = await read_answer(response)
            except BodyTooLarge:
                unseen = response.status in UNSEEN
                raise _Failed(f"{response.status} and a body too large to be an answer", unseen) from None
        text = f"{response.status} {content[:300].decode('utf-8', 'replace')}"
        if may_pass(response.status):
            if (seconds := retry_after(response.headers)) is not None:
                self._endpoints.rest(endpoint, seconds, text)
            raise _Failed(text, unseen=response.status in UNSEEN)
        self._endpoints.succeeded(endpoint)
        if response.status in (400, 413):
            raise DetectionFailed(f"detector refused the picture: {text}")
        if response.status != 200:
            raise StopRun(f"boxes.url: no detector server at {endpoint.url}{path}, it answers {text}")
        try:
            reply = TypeAdapter(Reply).validate_json(content)
        except ValidationError as error:
            raise _Failed(f"malformed answer {text!r}") from error
        if not all(_is_sound(item) for item in reply.detections):
            raise _Failed(f"malformed answer: a score outside 0-1, or a side that is no number, in {text!r}")
        return reply


def _is_sound(found: Detection) -> bool:
    """JSON of Python holds NaN, which no threshold holds back."""
    return all(map(math.isfinite, found.bbox)) and (found.score is None or 0 <= found.score <= 1)
