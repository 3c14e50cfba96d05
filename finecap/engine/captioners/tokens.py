"""How many tokens a request has for a captioner that does not say: an estimate, for budgets and prices."""

from __future__ import annotations

import math
from collections.abc import Sequence

from finecap.pictures import ANY_SIZE, BadPicture, opened
from finecap.tasks.length import BYTES_PER_TOKEN, PIXELS_PER_TOKEN

# An answer with so many characters for each token of `max_tokens` is cut there and is no caption: English has about
# four, other languages fewer. Who writes more does not mind the limit (or writes rows of dashes), and a caption of a
# megabyte would be checked, kept and shown.
MOST_CHARACTERS_PER_TOKEN = 16
# Of a picture whose header cannot be read; FineViT's third stage is trained at about 1000 x 1000.
TYPICAL_PIXELS = 1_000_000


def text_tokens(text: str) -> int:
    """Estimated tokens of a text."""
    return round(len(text.encode("utf-8", "replace")) / BYTES_PER_TOKEN)


def prompt_tokens(prompt: str, images: Sequence[bytes]) -> int:
    """Estimated tokens of a request: its text, and its pictures by their pixels."""
    return text_tokens(prompt) + sum(math.ceil(_pixels(image) / PIXELS_PER_TOKEN) for image in images)


def _pixels(image: bytes) -> int:
    try:
        with opened(image, ANY_SIZE) as picture:
            return picture.width * picture.height
    except BadPicture:
        return TYPICAL_PIXELS
