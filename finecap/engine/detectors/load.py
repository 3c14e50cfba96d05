"""The detector that a recipe names: in this process, behind a URL, or a captioner that grounds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Protocol

from finecap.boxes import BoxFormat
from finecap.engine.captioners.client import chat_client
from finecap.engine.captioners.ensemble import Captioner
from finecap.engine.contract import Context
from finecap.engine.detectors.by_captioner import GroundingCaptioner
from finecap.engine.detectors.detector import Detector
from finecap.engine.detectors.served import ServedDetector
from finecap.engine.detectors.zero_shot import ZeroShotDetector
from finecap.engine.running.concurrency import event_loop
from finecap.errors import StopRun
from finecap.files import write_json

SERVED = "detector.json"


class DetectorOptions(Protocol):
    """What the options of the boxes pass say about its detector; see there."""

    @property
    def detector(self) -> str | None: ...
    @property
    def url(self) -> str | None: ...
    @property
    def captioner(self) -> str | None: ...
    @property
    def box_format(self) -> BoxFormat: ...
    @property
    def min_score(self) -> float: ...


def load_detector(options: DetectorOptions, context: Context) -> Detector:
    """The detector that the boxes section of a recipe names, built once in a worker process. Call it before the event
    loop runs. A detector that lies in `context.models["detector"]` already is handed back: that is how tests and
    benchmarks hand in their own.

    Raises:
        StopRun: no detector in this folder, none behind this URL, no captioner of this name, torch or transformers is
            missing.
    """
    if "detector" in context.models:
        return context.models["detector"]
    if options.detector is not None:
        folder, min_score = Path(options.detector), options.min_score
        return context.load("detector", lambda: ZeroShotDetector.from_folder(folder, min_score))
    if options.url is not None:
        url, min_score, loop = options.url, options.min_score, event_loop(context)
        served = context.load("detector", lambda: loop.run_until_complete(ServedDetector.open(url, min_score)))
        _check_same(context.journal.path.with_name(SERVED), url, served.name)
        return served
    captioner = _captioner(options.captioner, context)
    # Not kept: journal and counters are those of this shard.
    return GroundingCaptioner(chat_client(context), captioner, options.box_format, context.journal, context.counters)


def _check_same(kept: Path, url: str, name: str) -> None:
    """Keep the name of the served detector beside the outputs, or compare it with the one that made those."""
    if not kept.exists():
        write_json(kept, name)
    if (before := json.loads(kept.read_text(encoding="utf-8"))) != name:
        raise StopRun(
            f"boxes.url: {url} is {name!r}, and boxes of this run were found by {before!r}. Records of one run come "
            f"from one detector: start the first one again, or remove {kept.parent} to find all boxes anew."
        )


def _captioner(name: str | None, context: Context) -> Captioner:
    known = {captioner.name: captioner for captioner in context.settings.captioners}
    if name not in known:
        raise StopRun(f"boxes.captioner: {name!r} is none of the recipe's captioners: {', '.join(known) or 'none'}")
    return known[name]
