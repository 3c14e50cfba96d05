"""Which questions the report shows, with their pictures."""

import io
import json
import random
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from PIL import Image

from finevit_eval.questions.export import task_name
from finevit_eval.questions.kinds import KINDS
from finevit_eval.suite import EVALUATIONS

CORRECT_AT = 0.5
"""ANLS counts below 0.5 as wrong by its own threshold; the other scores of one example are 0 or 1."""


def pick_examples(run_dir: Path, blind_dir: Path | None = None, n: int = 12, seed: int = 0) -> list[dict[str, Any]]:
    """Draw examples from a run of `finevit eval`, the same number of each task, by seed and not by success.

    Args:
        run_dir: `out` of the run.
        blind_dir: `out` of the blind run on the same questions; adds "blind_prediction".
        n: How many in all; the first tasks get one more where it does not divide.
        seed: Of the draw.

    Raises:
        ValueError: `run_dir` holds no samples of questions.
    """
    kinds = [kind for kind in KINDS if (run_dir / f"samples_{kind}.jsonl").is_file()]
    if not kinds:
        raise ValueError(f"{run_dir} holds no samples of questions; give the --out folder of `finevit eval`.")
    rng = random.Random(seed)
    examples = []
    for position, kind in enumerate(kinds):
        samples = _samples(run_dir, kind)
        share = n // len(kinds) + (position < n % len(kinds))
        chosen = rng.sample(samples, min(share, len(samples)))
        blind = {s["id"]: s for s in _samples(blind_dir, kind)} if blind_dir else {}
        images = pq.read_table(run_dir / "tasks" / f"{task_name(kind)}.parquet", columns=["image"])["image"]
        for sample in chosen:
            picture = Image.open(io.BytesIO(images[sample["row"]].as_py()["bytes"]))
            named = {"kind": kind, "title": EVALUATIONS[kind].title, "metric": EVALUATIONS[kind].metric}
            example = {**sample, **named, "image": picture, "correct": sample["score"] >= CORRECT_AT}
            if sample["id"] in blind:
                example["blind_prediction"] = blind[sample["id"]]["prediction"]
            examples.append(example)
    return examples


def _samples(run_dir: Path, kind: str) -> list[dict[str, Any]]:
    with (run_dir / f"samples_{kind}.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
