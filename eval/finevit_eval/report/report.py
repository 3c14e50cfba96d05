"""The report: one HTML file with table, loss curve and held-out examples; nothing external, so that it can be sent."""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment
from PIL import Image

from finecap.files import write_text
from finevit_eval.report.curve import curve_svg
from finevit_eval.suite import EVALUATIONS

ENLARGE = 3
"""Small pictures are shown at three times their size, pixels kept sharp."""
MAX_EMBEDDED_SIDE = 1024
"""Larger pictures are embedded scaled down (pixels), boxes with them through the SVG's own coordinates."""


def write_report(
    results: dict[str, Any], curve: list[dict[str, Any]], examples: list[dict[str, Any]], out: Path
) -> None:
    """Write the report.

    Args:
        results: As `finevit_eval.result.combine` returns it; scores of 0-1.
        curve: Training log, one dict per logged step with "step" and "loss"; others are passed over.
        examples: As `finevit_eval.report.examples.pick_examples` returns them: "title", "image" (PIL), "question",
            "truth", "prediction", "metric", "score", "correct"[, "iou"][, "blind_prediction"]; those with an "iou" are
            boxes, in pixels x1, y1, x2, y2.
        out: The HTML file.

    Raises:
        ValueError: `results` holds no tasks.
    """
    if not results.get("tasks"):
        raise ValueError("results holds no tasks; give what finevit_eval.result.combine returned.")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    source = files("finevit_eval.report").joinpath("report.html.jinja")
    template = environment.from_string(source.read_text(encoding="utf-8"))
    html = template.render(
        rows=[_row(name, task) for name, task in results["tasks"].items()],
        has_blind=any("blind_score" in task for task in results["tasks"].values()),
        has_base=any("base_score" in task for task in results["tasks"].values()),
        interval_method=results.get("interval_method"),
        curve=curve_svg(curve),
        examples=[_card(example) for example in examples],
        num_correct=sum(bool(example["correct"]) for example in examples),
        receipts=_receipt_rows(results.get("receipts", {})),
    )
    write_text(out, html)


def _row(name: str, task: Mapping[str, Any]) -> dict[str, Any]:
    title = EVALUATIONS[name].title if name in EVALUATIONS else name
    row = {"title": title, "metric": task["metric"], "n": f"{task['n']:,}", "score": f"{task['score']:.3f}"}
    row["score_percent"] = f"{100 * task['score']:.1f}"
    row["interval"] = "–".join(f"{end:.3f}" for end in task["interval"])
    if "blind_score" in task:
        gain = task["score"] - task["blind_score"]
        row |= {"blind": f"{task['blind_score']:.3f}", "gain": f"{gain:+.3f}".replace("-", "−")}
        row["blind_percent"] = f"{100 * task['blind_score']:.1f}"
    if "base_score" in task:
        row["base"] = f"{task['base_score']:.3f}"
    return row


def _card(example: Mapping[str, Any]) -> dict[str, Any]:
    image = example["image"].convert("RGB")
    card = {
        "task": example["title"],
        "question": example["question"],
        "truth": _text(example["truth"]),
        "prediction": _text(example["prediction"]),
        "blind": _text(example["blind_prediction"]) if "blind_prediction" in example else None,
        "correct": bool(example["correct"]),
        "score": f"IoU {example['iou']:.2f}" if "iou" in example else f"{example['metric']} {example['score']:.2f}",
        "width": image.width,
        "height": image.height,
        "shown_width": min(ENLARGE * image.width, MAX_EMBEDDED_SIDE),
        "pixelated": max(image.size) * ENLARGE <= MAX_EMBEDDED_SIDE,
        "source": _data_uri(image),
        "boxes": [],
    }
    if "iou" in example:
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
    names = ("date", "model", "weights", "commit", "data", "split", "cpu", "threads", "gpus", "device", "dtype")
    names = (*names, "batch_size", "max_pixels", "seed", "command")
    rows = [(name.replace("_", " "), _listed(receipt[name])) for name in names if receipt.get(name)]
    versions = _listed({name: number for name, number in receipt.get("versions", {}).items() if number})
    prints = ", ".join(f"{kind} {task['fingerprint'][:12]}" for kind, task in receipt.get("tasks", {}).items())
    return [*rows, ("versions", versions), ("data fingerprints", prints)]


def _listed(value: Any) -> str:
    """A value of a receipt on one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {item}" for name, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
