"""The order of the passes."""

from __future__ import annotations

from finecap.engine.contract import Pass
from finecap.engine.passes import (
    balance,
    boxes,
    dedup,
    filter,
    ingest,
    local_captions,
    ocr,
    pack,
    phrases,
    recaption,
    verify,
)

PASSES = (
    Pass("ingest", ingest.Options, ingest.COLUMNS, ("bytes", "url"), (), ingest.run, optional=False),
    Pass(
        "filter", filter.Options, filter.COLUMNS, ("image", "width", "height"), ("ingest",), filter.run, optional=False
    ),
    Pass(
        "dedup",
        dedup.Options,
        dedup.COLUMNS,
        ("sha256", "phash", "branch"),
        ("filter",),
        dedup.run,
        reduce=dedup.reduce,
        reduces=("ingest", "filter"),
        optional=False,
    ),
    Pass("ocr", ocr.Options, ocr.COLUMNS, ("image", "branch"), ("dedup",), ocr.run),
    Pass(
        "recaption",
        recaption.Options,
        recaption.COLUMNS,
        ("image", "branch"),
        ("dedup",),
        recaption.run,
    ),
    Pass("phrases", phrases.Options, phrases.COLUMNS, ("global_caption",), ("recaption",), phrases.run),
    Pass(
        "boxes",
        boxes.Options,
        boxes.COLUMNS,
        ("image", "width", "height", "branch", "phrases"),
        ("phrases",),
        boxes.run,
    ),
    Pass(
        "balance",
        balance.Options,
        balance.COLUMNS,
        ("objects",),
        ("boxes",),
        balance.run,
        reduce=balance.reduce,
        reduces=("boxes",),
    ),
    Pass(
        "local_captions",
        local_captions.Options,
        local_captions.COLUMNS,
        ("image", "width", "height", "global_caption", "objects", "kept_objects?", "texts?"),
        ("balance", "ocr"),
        local_captions.run,
    ),
    Pass(
        "verify",
        verify.Options,
        verify.COLUMNS,
        (
            "image",
            "width",
            "height",
            "branch",
            "global_caption?",
            "captions?",
            "objects?",
            "local_captions?",
            "texts?",
            "ocr_engine?",
        ),
        ("local_captions", "recaption", "ocr"),
        verify.run,
    ),
    Pass(
        "pack",
        pack.Options,
        pack.COLUMNS,
        (
            *("id", "image", "width", "height", "source", "license", "split", "branch"),
            *(
                "captions?",
                "global_caption?",
                "captioner?",
                "phrase_extractor?",
                "objects?",
                "kept_objects?",
                "detector?",
            ),
            *("local_captions?", "texts?", "ocr_engine?", "verdicts?", "read_back?", "checks?", "flags?"),
        ),
        ("verify", "local_captions", "balance", "recaption", "ocr", "dedup"),
        pack.run,
        optional=False,
        aligned=False,
    ),
)
