"""What a run is asked for, what comes out of it, and how runs are put side by side."""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finecap.files import write_json, write_text
from finevit_eval.intervals import METHOD, score_interval
from finevit_eval.shown import keep_pictures, pictures_file, seed_of

RESULTS_FILE = "results.json"
GREY = (128, 128, 128)
"""What a blind model is shown: a picture of the same size, RGB."""
Results = dict[str, Any]
"""`{"tasks": {name: {"metric", "n", "score", "interval", ...}}, "interval_method": str, "receipt": {...}}`."""
ALIKE = ("dtype", "max_pixels")
"""What two runs must share for their scores to be compared, besides the data."""
MEAN_WITHIN = 1e-4
"""A headline that is nearer than this to the mean of its samples' scores is that mean, rounded."""
Pictures = Callable[[set[str]], Iterable[tuple[str, bytes]]]
"""Reads those pictures of the data that have these ids: each id with the file's bytes, in any order."""


@dataclass(frozen=True)
class Settings:
    """How a model is measured.

    Attributes:
        split: Of the data.
        limit: Most questions of an evaluation, drawn with `seed`; None asks all.
        blind: Show mid-grey pictures: the baseline that tells seeing from guessing.
        max_pixels: Area budget of a picture in pixels; None keeps the processor's.
        batch_size: Questions per call of the model.
        seed: For the draw of the questions and for sampling, if an evaluation samples.
        device: None takes the GPU where there is one.
        dtype: "auto" (as stored), "float32", "bfloat16", ...

    Raises:
        ValueError: A number is under 1.
    """

    split: str = "test"
    limit: int | None = None
    blind: bool = False
    max_pixels: int | None = None
    batch_size: int = 16
    seed: int = 0
    device: str | None = None
    dtype: str = "auto"

    def __post_init__(self) -> None:
        for name in ("limit", "max_pixels", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; expected a whole number from 1 up.")


@dataclass(frozen=True)
class Outcome:
    """What one evaluation found out.

    Attributes:
        score: The headline, 0-1, as the harness computed it.
        samples: One dict per question. It has "id", "group" (the id of its picture) and "score" (0-1). The report
            shows of it, where it is there:
            "question": what was asked, a text;
            "truth", "prediction": a text, a list of texts that are all right, or a number;
            "iou": then truth and prediction are boxes (pixels x1, y1, x2, y2; None for no box), and are drawn;
            "box": the box that was asked about, drawn as well;
            "rank": of what is right, from 1;
            "confused": ids of pictures that were taken for the right one, the most similar first;
            "confidence": of the prediction, on any scale: the report shows the surest failures.
        others: Further scores by name.
        controls: Scores that tell what the headline is worth, by name: "shuffled", "chance", ...
        interval: Of the headline, where that is no mean of the samples' scores: see
            `finevit_eval.resampling.bootstrap_interval`.
        facts: For the receipt: prompt, fingerprint of the questions, ...
        pictures: Reads pictures by the ids in "group" and "confused", for the few samples that the report shows; None
            where there are none.
    """

    score: float
    samples: list[dict[str, Any]]
    others: Mapping[str, float] = field(default_factory=dict)
    controls: Mapping[str, float] = field(default_factory=dict)
    interval: tuple[float, float] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    pictures: Pictures | None = None


@dataclass(frozen=True)
class Measured:
    """What a runner hands back: an outcome for each evaluation that it was asked for, and facts about the model as it
    was loaded, for the receipt ("dtype", "device", "max_pixels", ...).
    """

    outcomes: Mapping[str, Outcome]
    facts: Mapping[str, Any]


def score_entry(metric: str, outcome: Outcome) -> dict[str, Any]:
    """The entry of one evaluation in the results.

    Raises:
        RuntimeError: A score is not a number, or is no mean of the samples' scores and has no interval.
    """
    scores = {"score": outcome.score, **outcome.others}
    controls = dict(outcome.controls)
    if broken := [name for name, value in (scores | controls).items() if not math.isfinite(value)]:
        raise RuntimeError(f"{metric}: not a number: {', '.join(broken)}.")
    samples, interval = outcome.samples, outcome.interval
    if interval is None:
        if not is_mean(outcome.score, samples):
            raise RuntimeError(f"{metric}: {outcome.score} is no mean of its samples' scores and has no interval.")
        interval = score_interval([s["score"] for s in samples], [s["group"] for s in samples])
    return {"metric": metric, "n": len(samples), **scores, "interval": list(interval), "controls": controls}


def is_mean(score: float, samples: Sequence[Mapping[str, Any]]) -> bool:
    """Is a headline the mean of its samples' scores?"""
    return abs(math.fsum(sample["score"] for sample in samples) / len(samples) - score) <= MEAN_WITHIN


def write_results(
    out: Path,
    entries: Mapping[str, Any],
    outcomes: Mapping[str, Outcome],
    receipt: Mapping[str, Any],
    failed: Mapping[str, str],
) -> Results:
    """Write `samples_<name>.jsonl` and the pictures of a few samples for each evaluation and, last, `results.json`;
    returns what the latter holds.

    Args:
        failed: What went wrong with those that gave no result, by their names.
    """
    for name, outcome in outcomes.items():
        write_text(out / f"samples_{name}.jsonl", "".join(json.dumps(line) + "\n" for line in outcome.samples))
        if outcome.pictures is not None:
            keep_pictures(pictures_file(out, name), outcome.samples, outcome.pictures, seed_of(name, receipt))
    results = {"tasks": dict(entries), "interval_method": METHOD, "receipt": dict(receipt)}
    results |= {"failed": dict(failed)} if failed else {}
    write_json(out / RESULTS_FILE, results)
    return results


def load_results(run_dir: Path) -> Results:
    """Read the results that an evaluation wrote to a folder; `ValueError` when there are none."""
    path = run_dir / RESULTS_FILE
    if not path.is_file():
        raise ValueError(f"{run_dir} holds no {RESULTS_FILE}; give the --out folder of `finevit eval`.")
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        if results["tasks"] and results["receipt"] and results["interval_method"]:
            return results
    except (json.JSONDecodeError, KeyError, TypeError):
        pass
    raise ValueError(f"{path} is not what `finevit eval` writes; run the evaluation again.")


def load_samples(run_dir: Path, name: str) -> list[dict[str, Any]]:
    """Read the samples of an evaluation; `ValueError` when there are none."""
    path = run_dir / f"samples_{name}.jsonl"
    if not path.is_file():
        raise ValueError(f"{path} is missing; give the whole --out folder of `finevit eval`.")
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def combine(sighted: Results, blind: Results | None = None, base: Results | None = None) -> Results:
    """Put runs over the same questions side by side.

    Args:
        sighted: Of the model.
        blind: Of the same weights, with grey pictures.
        base: Of the checkpoint that the model was tuned from.

    Returns:
        `{"tasks": {name: {"metric", "n", "score", "interval"[, "blind_score", "blind_interval"][, "base_score",
        "base_interval"]}}, "failed": {name: reason}, "interval_method": str, "receipts": {"score": ..., "blind": ...,
        "base": ...}}`.

    Raises:
        ValueError: `blind` is not the blind run of this model, a run that should have seen its pictures was blind, or
            runs differ in questions, dtype or max_pixels.
    """
    _check_sight(sighted, "sighted", blind=False)
    others = {name: run for name, run in (("blind", blind), ("base", base)) if run is not None}
    for name, run in others.items():
        _check_sight(run, name, blind=name == "blind")
        check_data(sighted, run, sighted["tasks"], ("sighted", name))
        check_settings(sighted, run, ("weights", *ALIKE) if name == "blind" else ALIKE, ("sighted", name))
    tasks = {name: dict(entry) for name, entry in sighted["tasks"].items()}
    for name, entry in tasks.items():
        for kind, run in others.items():
            entry[f"{kind}_score"] = run["tasks"][name]["score"]
            entry[f"{kind}_interval"] = run["tasks"][name]["interval"]
    receipts = {"score": sighted["receipt"]} | {name: run["receipt"] for name, run in others.items()}
    failed, method = sighted.get("failed", {}), sighted["interval_method"]
    return {"tasks": tasks, "failed": failed, "interval_method": method, "receipts": receipts}


def _check_sight(run: Results, name: str, blind: bool) -> None:
    if bool(run["receipt"].get("blind")) != blind:
        saw, expected = ("saw its pictures", "a run with --blind") if blind else ("was blind", "one without --blind")
        raise ValueError(f"The run given as {name} {saw}; give {expected}.")


def check_data(mine: Results, other: Results, tasks: Iterable[str], names: tuple[str, str]) -> None:
    """Raises ValueError where two runs, called so, measured an evaluation with other data."""
    for task in tasks:
        one, two = (run["receipt"]["tasks"].get(task, {}).get("fingerprint") for run in (mine, other))
        if one is None or one != two:
            raise ValueError(
                f"The {names[1]} run measured {task} with other data ({two} instead of {one}, of the {names[0]} run); "
                "run it again."
            )


def check_settings(mine: Results, other: Results, keys: Iterable[str], names: tuple[str, str]) -> None:
    """Raises ValueError where two runs, called so, differ in what the keys of their receipts say."""
    for key in keys:
        one, two = (run["receipt"].get(key) for run in (mine, other))
        if one is None or one != two:
            raise ValueError(
                f"The {names[1]} run has {key} {two}, the {names[0]} one {one}; evaluate with the same {key}."
            )
