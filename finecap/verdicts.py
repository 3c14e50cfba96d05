"""What a second look at a caption or a text came to. A region's `verdict` is one of these words, or None if there was
no second look or it decided nothing.
"""

from __future__ import annotations

from typing import Literal

Verdict = Literal["verified", "self-consistent", "refuted"]

# A source other than the writer agrees: the pixels and the text that OCR read, or another model.
VERIFIED: Verdict = "verified"
# The model that wrote it agrees with itself, which is what a model does with its mistakes too.
SELF_CONSISTENT: Verdict = "self-consistent"
# Something contradicts it. A refuted caption is in no record: its region has no caption.
REFUTED: Verdict = "refuted"
VERDICTS: tuple[Verdict, ...] = (VERIFIED, SELF_CONSISTENT, REFUTED)
