"""A zero-shot detector behind a URL, for runs whose workers have no GPU.

    python -m finecap.engine.detectors.server FOLDER --port 9000

    POST /detect  {"image": data URL, "phrases": [text, ...], "min_score": 0.3}
                  -> {"detector": name, "detections": [{"bbox": [x1, y1, x2, y2], "phrase": index, "score": 0.9}, ...]}
    GET /health   -> {"detector": name}

A request that can never succeed is answered with 400 or 413 and {"error": {"message": ...}}.
There is no key: let it listen where only the run's workers reach it.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated

from aiohttp import web
from PIL import Image
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from finecap.engine.detectors.zero_shot import ZeroShotDetector
from finecap.pictures import open_rgb

# A picture of the engine is far smaller; more is a mistake or an attack.
MAX_BODY_BYTES = 64 * 2**20
MAX_PIXELS = 100_000_000
# Pictures that are read and decoded at a time, one of them in the model; the bodies of others are not read yet.
MAX_IN_HAND = 4


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Question:
    """Body of POST /detect."""

    image: str
    phrases: Annotated[list[Annotated[str, Field(max_length=4000)]], Field(max_length=1000)]
    min_score: Annotated[float, Field(ge=0, le=1)]


class _Refused(ValueError):
    """The request is wrong; the text says how."""


def application(detector: ZeroShotDetector) -> web.Application:
    """The server around a loaded detector, for `aiohttp.web`."""
    places = asyncio.Semaphore(MAX_IN_HAND)

    async def detect(request: web.Request) -> web.Response:
        async with places:
            question = _question(await request.read())
            image = await asyncio.to_thread(_picture, question.image)
            found = await detector.detect(image, question.phrases, question.min_score)
        return web.json_response({"detector": detector.name, "detections": [item._asdict() for item in found]})

    async def health(request: web.Request) -> web.Response:
        return web.json_response({"detector": detector.name})

    app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[_errors_as_json])
    app.router.add_post("/detect", detect)
    app.router.add_get("/health", health)
    return app


@web.middleware
async def _errors_as_json(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except _Refused as error:
        return _error(400, str(error))
    except web.HTTPClientError as error:
        return _error(error.status, error.text or error.reason)


def _error(status: int, message: str) -> web.Response:
    return web.json_response({"error": {"message": message}}, status=status)


def _question(body: bytes) -> Question:
    try:
        return TypeAdapter(Question).validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise _Refused(f"{place or 'body'}: {first['msg']}") from None


def _picture(url: str) -> Image.Image:
    head, _, data = url.partition(",")
    if not (head.startswith("data:image/") and head.endswith(";base64")):
        raise _Refused("image: expected a data URL, data:image/...;base64,...")
    try:
        return open_rgb(base64.b64decode(data, validate=True), MAX_PIXELS)
    except ValueError as error:  # no base64, or a BadPicture
        raise _Refused(f"image: {error}") from error


def serve(folder: Path, host: str, port: int) -> None:
    """Serve a zero-shot object detector of Transformers until interrupted. There is no key: mind where you listen.

    Raises:
        StopRun: the folder holds no such detector, or torch or transformers is missing.
    """
    web.run_app(application(ZeroShotDetector.from_folder(folder, 0.0)), host=host, port=port)
