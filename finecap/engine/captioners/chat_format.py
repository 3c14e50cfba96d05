"""OpenAI's chat format: what is sent to a captioner, and what is read of what comes back."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

from finecap.engine.captioners.ensemble import Captioner

MEDIA_TYPES = {b"\xff\xd8\xff": b"image/jpeg", b"\x89PNG\r\n\x1a\n": b"image/png"}
# More tokens in one answer than this is no count.
MAX_COUNT = 2**40


class Completion(NamedTuple):
    """What was read of an answer.

    Attributes:
        text: None when it is not a chat completion; "" when its content is null.
        finish_reason: None when it is not said.
        usage: prompt and completion tokens; None when they are not said.
    """

    text: str | None
    finish_reason: str | None
    usage: tuple[int, int] | None


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
    """The message of an OpenAI-style error, else the beginning of the body."""
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError):
        return raw[:2000].decode("utf-8", "replace")
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
        return Completion(None, None, None)
    try:
        choice = content["choices"][0]
        text, finish_reason = choice["message"].get("content"), choice.get("finish_reason")
        if isinstance(text, list):  # parts, as some servers answer
            text = "".join(part["text"] for part in text if "text" in part)
    except (TypeError, KeyError, IndexError, AttributeError):
        return Completion(None, None, _usage(content))
    if text is None:
        text = ""
    return Completion(
        text if isinstance(text, str) else None,
        finish_reason if isinstance(finish_reason, str) else None,
        _usage(content),
    )


def _usage(content: Any) -> tuple[int, int] | None:
    usage = content.get("usage") if isinstance(content, dict) else None
    if not isinstance(usage, dict):
        return None
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    for count in (prompt, completion):
        if not isinstance(count, int) or not 0 <= count < MAX_COUNT:
            return None
    return prompt, completion


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, from a number or a date."""
    value = headers.get("Retry-After", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None
