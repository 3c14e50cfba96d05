"""OpenAI's chat format: what is sent to a captioner, and what is read of what comes back."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from finecap.engine.captioners.ensemble import Captioner

MEDIA_TYPES = {b"\xff\xd8\xff": b"image/jpeg", b"\x89PNG\r\n\x1a\n": b"image/png"}
# More tokens in one answer than this is no count.
MAX_COUNT = 2**40
MAX_DIGITS = len(str(MAX_COUNT))


class Completion(NamedTuple):
    """What was read of an answer.

    Attributes:
        text: None when it is not a chat completion; "" when its content is null.
        finish_reason: None when it is not said.
        prompt_tokens, completion_tokens: None where they are not said, or in no way that can be read.
    """

    text: str | None
    finish_reason: str | None
    prompt_tokens: int | None
    completion_tokens: int | None


def chat_body(
    captioner: Captioner, prompt: str, images: Sequence[bytes], max_tokens: int, temperature: float | None
) -> bytes:
    """The JSON of a request; pictures come before the prompt.

    Raises:
        ValueError: a picture is neither JPEG nor PNG.
    """
    request = {
        "model": captioner.model,
        "max_tokens": max_tokens,
        "temperature": captioner.temperature if temperature is None else temperature,
        "stream": False,
    }
    content = json.dumps(prompt).encode()
    if images:
        content = b'[%s, {"type": "text", "text": %s}]' % (b", ".join(map(_image_part, images)), content)
    return b'{"messages": [{"role": "user", "content": %s}], %s' % (content, json.dumps(request).encode()[1:])


def _image_part(image: bytes) -> bytes:
    """In JSON. Base64 needs no escapes, and to have them searched for would take longer than all the rest."""
    for magic, media_type in MEDIA_TYPES.items():
        if image.startswith(magic):
            url = b"data:%s;base64,%s" % (media_type, base64.b64encode(image))
            return b'{"type": "image_url", "image_url": {"url": "%s"}}' % url
    raise ValueError(f"captioners are sent JPEG or PNG pictures, got one that begins with {image[:8]!r}")


def error_text(raw: bytes) -> str:
    """The message of an OpenAI-style error, else the whole body."""
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError):
        return raw.decode("utf-8", "replace")
    error = content.get("error", content) if isinstance(content, dict) else content
    if isinstance(error, dict):
        named = [error.get(name) for name in ("code", "message", "detail")]
        return " ".join(text for text in named if isinstance(text, str)) or str(error)
    return str(error)


def read_completion(raw: bytes) -> Completion:
    """Read an answer with status 200, whatever it is."""
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError):
        return Completion(None, None, None, None)
    usage = content.get("usage") if isinstance(content, dict) else None
    usage = usage if isinstance(usage, dict) else {}
    counts = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    try:
        choice = content["choices"][0]
        text, finish_reason = choice["message"].get("content"), choice.get("finish_reason")
        if isinstance(text, list):  # parts, as some servers answer
            text = "".join(part["text"] for part in text if "text" in part)
    except (TypeError, KeyError, IndexError, AttributeError):
        return Completion(None, None, *counts)
    if text is None:
        text = ""
    return Completion(
        text if isinstance(text, str) else None,
        finish_reason if isinstance(finish_reason, str) else None,
        *counts,
    )


def _count(said: Any) -> int | None:
    """A number of tokens; some servers say 12.0 or "12"."""
    if isinstance(said, str) and said.isascii() and said.isdecimal() and len(said) <= MAX_DIGITS:
        said = int(said)
    if isinstance(said, float) and said.is_integer():
        said = int(said)
    usable = isinstance(said, int) and not isinstance(said, bool) and 0 <= said < MAX_COUNT
    return said if usable else None
