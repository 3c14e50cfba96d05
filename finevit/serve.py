"""`transformers serve` with FineViT-VL's classes registered first: it looks architectures up by name."""

import argparse
import asyncio
import logging
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
from PIL import Image

import finevit  # noqa: F401  (registers the classes with Auto* and by name)
from finevit_vl import FineViTVLProcessor
from finevit_vl.model_folder import check_model_folder
from modeling_finevit.image_inputs import decode_base64_image, is_url, open_image, open_image_bytes
from modeling_finevit.image_processing_pil_finevit import FineViTImageProcessing

logger = logging.getLogger("uvicorn.error")
MAX_FETCHED_BYTES = 64 * 2**20


def serve(arguments: list[str]) -> None:
    """Run transformers' own command `serve`, an OpenAI-compatible server, until it is interrupted.

    FineViT-VL needs nothing more: answers are those of `finevit ask`, token for token (a test compares them). Of
    transformers 5.23 there is this to know. Requests are answered one after the other, whatever comes in at once.
    Clients must call the model by the very name it was served under. Special tokens are left out, so boxes come as
    `(x1,y1),(x2,y2)` without their marks, which `parse_boxes` reads. Decoding is greedy unless the model's
    generation_config.json says otherwise, even if a request sets a temperature.

    Pictures come inside the request, as data URIs or base64. A link or a path in a request would make this machine
    read what only it may read, so both are refused unless `--allow-urls` or `--allow-paths` is given; links to private
    addresses are refused always. No other model is loaded, whatever a request names, and nobody can unload this one:
    `/reset` is not there. A request that cannot be answered gets status 400 and the reason.

    Args:
        arguments: The two options above, and what follows `transformers serve`; `["--help"]` lists its options.

    Raises:
        ValueError: The packages of the extra `serve` are missing, the model folder is none or no FineViT-VL, or an
            option is unknown.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, usage=argparse.SUPPRESS)
    own = parser.add_argument_group("Options of `finevit serve`, beside those of `transformers serve`")
    own.add_argument("--allow-urls", action="store_true", help="fetch pictures from public http(s) URLs")
    own.add_argument("--allow-paths", action="store_true", help="open pictures by their paths on this machine")
    allowed, rest = parser.parse_known_args(arguments)
    missing = [name for name in ("fastapi", "uvicorn", "openai") if find_spec(name) is None]
    missing += ["aiohttp"] if allowed.allow_urls and find_spec("aiohttp") is None else []
    helping = bool({"-h", "--help"} & set(rest))
    if missing and not helping:
        raise ValueError(f"Serving needs {', '.join(missing)}; pip install 'finevit[serve,engine]'.")
    if rest and not rest[0].startswith("-"):
        check_model_folder(rest[0])
    from transformers.cli.transformers import app

    try:
        with guarded(allowed.allow_urls, allowed.allow_paths):
            app(["serve", *rest], prog_name="finevit", standalone_mode=False)
    except click.Abort:  # Ctrl-C, after uvicorn has shut down
        return
    except click.UsageError as error:
        # The message goes on with every option there is.
        raise ValueError(f"{error.message.split('.')[0]}; see `finevit serve --help`") from error
    if helping:
        print(f"\n{parser.format_help()}")


@contextmanager
def guarded(allow_urls: bool, allow_paths: bool) -> Generator[None]:
    """While this lasts, image processors open only what is allowed, and servers answer bad requests with 400."""
    from transformers.cli.serving import server

    def open_allowed(source: str | Path, name: str) -> Image.Image:
        return open_source(source, name, allow_urls, allow_paths)

    def build_server(model_manager: Any, chat_handler: Any, *args: Any, **kwargs: Any) -> Any:
        _check_served(model_manager)
        _check_chats(chat_handler)
        return _with_reasons(build(model_manager, chat_handler, *args, **kwargs))

    build, unguarded = server.build_server, FineViTImageProcessing.open_source
    server.build_server = build_server  # ty: ignore[invalid-assignment]
    FineViTImageProcessing.open_source = staticmethod(open_allowed)
    try:
        yield
    finally:
        server.build_server, FineViTImageProcessing.open_source = build, staticmethod(unguarded)


def open_source(source: str | Path, name: str, allow_urls: bool, allow_paths: bool) -> Image.Image:
    """Open a picture that a client names.

    Raises:
        ValueError: It is no picture, or a link or path that is not allowed; the message begins with `name`.
    """
    if is_url(source):
        if not allow_urls:
            raise ValueError(
                f"{name}: this server fetches no URLs. Send the picture as a data URI "
                "(data:image/png;base64,...), or start `finevit serve` with --allow-urls."
            )
        return open_image_bytes(_fetched(str(source), name), name)
    if allow_paths:
        return open_image(source, name)
    content = decode_base64_image(str(source))
    if content is None:
        raise ValueError(
            f"{name}: expected a data URI (data:image/png;base64,...) or base64. This server opens no files unless "
            "`finevit serve` is started with --allow-paths."
        )
    return open_image_bytes(content, name)


def _fetched(url: str, name: str) -> bytes:
    from finecap.shards.fetch import FetchError, fetch_image

    # In a thread: the server's own event loop, which this is called from, cannot run another.
    with ThreadPoolExecutor(1) as pool:
        try:
            return pool.submit(lambda: asyncio.run(fetch_image(url, MAX_FETCHED_BYTES))).result()
        except FetchError as error:
            raise ValueError(f"{name}: {error}") from error


def _check_served(model_manager: Any) -> None:
    """Refuses models that the guard does not reach: any other's processor would fetch what a client names."""
    if model_manager.force_model is None:
        raise ValueError("Name the model folder to serve: `finevit serve MODEL`.")
    _, processor = model_manager.load_model_and_processor(model_manager.process_model_name(model_manager.force_model))
    if not isinstance(processor, FineViTVLProcessor):
        raise ValueError(f"{model_manager.force_model} is no FineViT-VL; use `transformers serve` for other models.")
    # /load_model and /v1/audio/transcriptions would load whatever folder or Hub id a client names.
    canonical, served = model_manager.process_model_name, model_manager.force_model

    def process_served_name(name: str) -> str:
        if canonical(name) != canonical(served):
            raise ValueError(f"this server serves {served} and loads no other model, got {name}")
        return canonical(name)

    model_manager.process_model_name = process_served_name


def _check_chats(chat_handler: Any) -> None:
    validate = chat_handler._validate_request

    def check(body: dict[str, Any]) -> None:
        validate(body)
        check_messages(body.get("messages"))

    chat_handler._validate_request = check


def check_messages(messages: Any) -> None:
    """What transformers takes for granted about the messages of a chat.

    Raises:
        ValueError: They are no list of turns with a role and content: a text, or parts that hold what their type says.
    """
    if not isinstance(messages, list) or not messages:
        raise ValueError(
            'messages: expected a list with a message or more, such as {"role": "user", "content": "..."}'
        )
    for at, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise ValueError(f'messages.{at}: expected a message with a role, {{"role": "user", "content": "..."}}')
        content = message.get("content")
        for number, part in enumerate(content if isinstance(content, list) else ()):
            if not isinstance(part, dict) or not _is_whole(part):
                raise ValueError(
                    f'messages.{at}.content.{number}: expected {{"type": "text", "text": "..."}} or '
                    '{"type": "image_url", "image_url": {"url": "data:image/png;base64,..."}}'
                )
        if not isinstance(content, str | list | None):
            raise ValueError(f"messages.{at}.content: expected a text or a list of parts")


def _is_whole(part: dict[str, Any]) -> bool:
    if part.get("type") == "text":
        return isinstance(part.get("text"), str)
    if part.get("type") == "image_url":
        image = part.get("image_url")
        return isinstance(image.get("url") if isinstance(image, dict) else image, str)
    return isinstance(part.get("type"), str)  # transformers and the processor say which they know


def _with_reasons(app: Any) -> Any:
    """A `ValueError` or a message the template refuses is the request's fault: 400 with the reason, not 500."""
    from fastapi import Request
    from fastapi.responses import JSONResponse
    from jinja2 import TemplateError

    def refuse(_request: Request, error: Exception) -> JSONResponse:
        logger.warning("refused: %s", error, exc_info=error)
        return JSONResponse({"detail": str(error)}, status_code=400)

    for kind in (ValueError, TemplateError):
        app.add_exception_handler(kind, refuse)
    app.router.routes[:] = [route for route in app.router.routes if route.path != "/reset"]
    return app
