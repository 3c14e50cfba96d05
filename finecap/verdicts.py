"""The verdicts on a caption or a text. A region's `verdict` is one of these words, or None: it was not checked, or the
check decided nothing.
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
