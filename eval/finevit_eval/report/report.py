"""The report: one HTML file with table, loss curve and held-out examples; nothing external, so that it can be sent."""

import base64
import io
import json
import math
import os
import random
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from jinja2 import Environment
from PIL import Image

from finevit_eval.questions.export import task_name
from finevit_eval.report.curve import curve_svg

TASK_TITLES = {
    "doc": "Documents",
    "chart": "Charts",
    "grounding": "Grounding",
    "easyvqa": "easy-vqa",
}
ENLARGE = 3
"""Small pictures are shown at three times their size, pixels kept sharp."""
MAX_EMBEDDED_SIDE = 1024
"""Larger pictures are embedded scaled down (pixels), boxes with them through the SVG's own coordinates."""
CORRECT_AT = 0.5
"""ANLS counts below 0.5 as wrong by its own threshold; the other scores of one example are 0 or 1."""


def write_report(
    results: dict[str, Any], curve: list[dict[str, Any]], examples: list[dict[str, Any]], out: Path
) -> None:
    """Write the report.

    Args:
        results: As `finevit_eval.questions.evaluate.combine` returns it: `{"tasks": {kind: {"metric", "n", "score",
            "blind_score"[, "base_score"]}}[, "receipts": {...}]}`; scores of 0-1.
        curve: Training log, one dict per logged step with "step" and "loss"; others are passed over.
        examples: As `pick_examples` returns them: "kind", "image" (PIL), "question", "truth", "prediction", "score",
            "correct"[, "blind_prediction"]; boxes are pixels x1, y1, x2, y2.
        out: The HTML file.

    Raises:
        ValueError: `results` holds no tasks.
    """
    if not results.get("tasks"):
        raise ValueError("results holds no tasks; give what finevit_eval.questions.evaluate.combine returned.")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    source = files("finevit_eval.report").joinpath("report.html.jinja")
    template = environment.from_string(source.read_text(encoding="utf-8"))
    html = template.render(
        rows=[_row(kind, task) for kind, task in results["tasks"].items()],
        has_base=any("base_score" in task for task in results["tasks"].values()),
        curve=curve_svg(curve),
        examples=[_card(example) for example in examples],
        num_correct=sum(bool(example["correct"]) for example in examples),
        receipts=_receipt_rows(results.get("receipts", {})),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_name(out.name + ".tmp")
    aside.write_text(html, encoding="utf-8")
    os.replace(aside, out)


def pick_examples(run_dir: Path, blind_dir: Path | None = None, n: int = 12, seed: int = 0) -> list[dict[str, Any]]:
    """Draw examples from a run of `evaluate`, the same number of each task, by seed and blind to success.

    Args:
        run_dir: `out_dir` of the run.
        blind_dir: `out_dir` of the blind run on the same questions; adds "blind_prediction".
        n: How many in all; the first tasks get one more where it does not divide.
        seed: Of the draw.

    Raises:
        ValueError: `run_dir` holds no samples.
    """
    kinds = [kind for kind in TASK_TITLES if (run_dir / f"samples_{kind}.jsonl").is_file()]
    if not kinds:
        raise ValueError(f"{run_dir} holds no samples_*.jsonl; give the out_dir of an evaluation.")
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
            example = {**sample, "kind": kind, "image": picture, "correct": sample["score"] >= CORRECT_AT}
            if sample["id"] in blind:
                example["blind_prediction"] = blind[sample["id"]]["prediction"]
            examples.append(example)
    return examples


def _samples(run_dir: Path, kind: str) -> list[dict[str, Any]]:
    with (run_dir / f"samples_{kind}.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def _row(kind: str, task: Mapping[str, Any]) -> dict[str, Any]:
    score, blind = task["score"], task["blind_score"]
    row = {"title": TASK_TITLES.get(kind, kind), "metric": task["metric"], "n": f"{task['n']:,}"}
    row |= {"score": f"{score:.3f}", "blind": f"{blind:.3f}", "gain": f"{score - blind:+.3f}".replace("-", "−")}
    row |= {"score_percent": f"{100 * score:.1f}", "blind_percent": f"{100 * blind:.1f}"}
    if "base_score" in task:
        row["base"] = f"{task['base_score']:.3f}"
    return row


def _card(example: Mapping[str, Any]) -> dict[str, Any]:
    image = example["image"].convert("RGB")
    grounding = example["kind"] == "grounding"
    card = {
        "task": TASK_TITLES.get(example["kind"], example["kind"]),
        "question": example["question"],
        "truth": _text(example["truth"]),
        "prediction": _text(example["prediction"]),
        "blind": _text(example["blind_prediction"]) if "blind_prediction" in example else None,
        "correct": bool(example["correct"]),
        "score": f"IoU {example['iou']:.2f}"
        if "iou" in example
        else f"{example.get('metric', 'score')} {example['score']:.2f}",
        "width": image.width,
        "height": image.height,
        "shown_width": min(ENLARGE * image.width, MAX_EMBEDDED_SIDE),
        "pixelated": max(image.size) * ENLARGE <= MAX_EMBEDDED_SIDE,
        "source": _data_uri(image),
        "boxes": [],
    }
    if grounding:
        boxes = (("truth", example["truth"]), ("predicted", example["prediction"]))
        card["boxes"] = [_rectangle(name, box) for name, box in boxes if box is not None]
    return card


def _rectangle(name: str, box: Sequence[float]) -> dict[str, Any]:
    x1, y1, x2, y2 = box
    return {"name": name, "x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1}


def _text(value: Any) -> str:
    """A truth or a prediction as a reader wants it: alternatives joined, boxes as whole pixels."""
    if value is None:
        return "no box"
    if value == "":
        return "no answer"
    if isinstance(value, str):
        return value
    if all(isinstance(v, (int, float)) and math.isfinite(v) for v in value):
        return f"({', '.join(str(round(v)) for v in value)})"
    return " / ".join(dict.fromkeys(str(v) for v in value))


def _data_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    if max(image.size) > MAX_EMBEDDED_SIDE:
        image = image.copy()
        image.thumbnail((MAX_EMBEDDED_SIDE, MAX_EMBEDDED_SIDE))
    image.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _receipt_rows(receipts: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
    """What a reader needs of the first receipt: settings and versions; the file results.json holds the rest."""
    if not receipts:
        return []
    receipt = next(iter(receipts.values()))
    names = ("date", "model", "data", "split", "device", "dtype", "batch_size", "max_pixels", "seed", "command")
    rows = [(name.replace("_", " "), str(receipt[name])) for name in names if name in receipt]
    versions = ", ".join(f"{name} {value}" for name, value in receipt.get("versions", {}).items() if value)
    prints = ", ".join(f"{kind} {task['fingerprint'][:12]}" for kind, task in receipt.get("tasks", {}).items())
    return [*rows, ("versions", versions), ("data fingerprints", prints)]
