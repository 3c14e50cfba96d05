"""A detector behind a URL (`finecap.engine.detectors.server`)."""

from __future__ import annotations

import asyncio
import base64
import random
import time
from collections.abc import Sequence
from typing import Any

import aiohttp
from PIL import Image
from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from finecap.engine.captioners.endpoints import Endpoint, Endpoints
from finecap.engine.detectors.detector import Detection, DetectionFailed, jpeg
from finecap.errors import StopRun

# As of captioners (`Captioner`): seconds for one request, tries, and seconds to wait for a server that is down.
TIMEOUT_S, MAX_ATTEMPTS, PATIENCE_S = 120.0, 6, 600.0
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0


@dataclass(frozen=True)
class Reply:
    """Body of an answer, to /detect; that to /health has no `detections`."""

    detector: str
    detections: tuple[Detection, ...] = ()


class _Failed(Exception):
    """One try failed and another may not.

    Attributes:
        unseen: nobody worked on it (a proxy without its server), so it does not count as a try.
    """

    def __init__(self, text: str, unseen: bool = False) -> None:
        super().__init__(text)
        self.unseen = unseen


class ServedDetector:
    """Asks a server for the boxes. Lost connections, time-outs and 5xx are tried again; when the server stays down the
    run stops, for no other picture would fare better.
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
        tries, waits, end = 0, 0, time.monotonic() + self._patience
        while True:
            async with self._endpoints.place() as endpoint:
                try:
                    return await self._try(endpoint, path, question)
                except (_Failed, aiohttp.ClientError, OSError) as error:
                    failure = error
                    text = " ".join(f"{type(error).__name__.strip('_')} {error}".split())
                    self._endpoints.failed(endpoint, text)
            # While no connection is made the breaker waits, and ends the run when it has waited long enough.
            tries += not (isinstance(failure, aiohttp.ClientConnectorError) or getattr(failure, "unseen", False))
            if tries >= MAX_ATTEMPTS or time.monotonic() > end + TIMEOUT_S:
                raise DetectionFailed(f"detector failed: {text} ({tries} tries)")
            await asyncio.sleep(random.uniform(0, min(LONGEST_WAIT, FIRST_WAIT * 2**waits)))
            waits += 1

    async def _try(self, endpoint: Endpoint, path: str, question: dict[str, Any] | None) -> Reply:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        # A new connection for each picture: it costs a millisecond, detection a hundred, and none has to be closed.
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.request("GET" if question is None else "POST", endpoint.url + path, json=question) as response,
        ):
            content = await response.read()
        text = f"{response.status} {content[:300].decode('utf-8', 'replace')}"
        if response.status >= 500 or response.status in (408, 429):
            raise _Failed(text, unseen=response.status in (429, 502, 503, 504))
        self._endpoints.succeeded(endpoint)
        if response.status in (400, 413):
            raise DetectionFailed(f"detector refused the picture: {text}")
        if response.status != 200:
            raise StopRun(f"boxes.url: no detector server at {endpoint.url}{path}, it answers {text}")
        try:
            return TypeAdapter(Reply).validate_json(content)
        except ValidationError as error:
            raise _Failed(f"malformed answer {text!r}") from error
