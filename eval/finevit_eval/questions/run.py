"""Evaluate a FineViT-VL folder on the questions of a FineCap split, in process, through lmms-eval's Python API.

In process because lmms-eval's command line exits 0 whatever fails, and scans 1,985 built-in tasks first; here any
failure raises.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager
from lmms_eval.tasks.refcoco.utils_rec import compute_iou
from tenacity import RetryError

from finevit_eval.questions.adapter import FineViTVL
from finevit_eval.questions.boxes import pixel_boxes
from finevit_eval.questions.export import KINDS, build_tasks, task_name
from finevit_eval.receipts import make_receipt, rows_fingerprint
from finevit_vl.answering import check_model_folder

RESULTS_FILE = "results.json"


@dataclass(frozen=True)
class _Metric:
    """Where lmms-eval keeps a kind's headline score, and the name we report it under."""

    name: str
    key: str
    others: Mapping[str, str]


METRICS = {
    "doc": _Metric("anls", "anls", {}),
    "chart": _Metric("relaxed_accuracy", "relaxed_overall", {}),
    "grounding": _Metric("acc@0.5", "refcoco_ACC@0.5", {"iou": "refcoco_IoU", "center_acc": "refcoco_Center_ACC"}),
    "easyvqa": _Metric("accuracy", "exact_match", {}),
}


def evaluate(
    model_dir: str | Path,
    data_dir: str | Path,
    out_dir: str | Path,
    tasks: Sequence[str] = KINDS,
    limit: int | None = None,
    batch_size: int = 16,
    blind: bool = False,
    max_pixels: int | None = None,
    seed: int = 0,
    device: str | None = None,
    dtype: str = "auto",
    split: str = "test",
) -> dict[str, Any]:
    """Measure a model and write `results.json` and `samples_<kind>.jsonl`.

    Args:
        model_dir: Folder of model and processor.
        data_dir: FineCap records in the Hub's layout.
        out_dir: For the results; the exported tasks go to `<out_dir>/tasks`, ready for lmms-eval's own command line.
        tasks: Question kinds: "doc", "chart", "grounding", "easyvqa".
        limit: At most so many questions per kind, drawn with `seed`.
        batch_size: Questions per call of `generate`.
        blind: Show mid-grey pictures: the baseline that tells seeing from guessing.
        max_pixels: Area budget of a picture in pixels; None keeps the processor's.
        seed: For the draw of the questions and for sampling, if a task samples.
        device: None takes the GPU where there is one.
        dtype: "auto", "float32", "bfloat16", ...
        split: Of the records.

    Returns:
        `{"tasks": {kind: {"metric", "n", "score", ...}}, "receipt": {...}}`, as written to `results.json`. Boxes in
        the samples are pixels x1, y1, x2, y2.

    Raises:
        ValueError: Model, data or settings cannot be used.
        RuntimeError: lmms-eval failed, lost questions, or gave a score that is not a number.
    """
    out = Path(out_dir)
    check_model_folder(model_dir)
    (out / RESULTS_FILE).unlink(missing_ok=True)
    built = build_tasks(Path(data_dir), out / "tasks", tasks, split, limit, seed)
    lm = FineViTVL(str(model_dir), device, dtype, batch_size, max_pixels, blind=blind)
    if lm.world_size > 1:
        raise ValueError(f"evaluate runs in one process; for several, launch `python -m lmms_eval` on {built.folder}.")
    raw = _run_lmms_eval(lm, built.folder, tasks, seed)
    scores = {kind: _task_result(kind, raw, built.num_rows[kind]) for kind in tasks}
    samples = {kind: [_sample(kind, s, lm) for s in raw["samples"][task_name(kind)]] for kind in tasks}
    settings = {
        "model": str(model_dir),
        "data": str(data_dir),
        "split": split,
        "blind": blind,
        "limit": limit,
        "batch_size": batch_size,
        "max_pixels": int(lm.generator.processor.image_processor.size["longest_edge"]),
        "seed": seed,
        "device": str(lm.device),
        "dtype": str(lm.generator.model.dtype).removeprefix("torch."),
        "skipped": built.skipped,
        "tasks": {kind: _task_receipt(kind, raw, lm, built.num_rows[kind]) for kind in tasks},
    }
    results = {"tasks": scores, "receipt": make_receipt(settings)}
    for kind, lines in samples.items():
        _write(out / f"samples_{kind}.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    _write(out / RESULTS_FILE, json.dumps(results, indent=2) + "\n")
    return results


def load_results(run_dir: Path) -> dict[str, Any]:
    """Read the results that `evaluate` wrote to a folder; `ValueError` when there are none."""
    path = run_dir / RESULTS_FILE
    if not path.is_file():
        raise ValueError(f"{run_dir} holds no {RESULTS_FILE}; give the --out folder of `finevit eval`.")
    return json.loads(path.read_text(encoding="utf-8"))


def combine(
    sighted: Mapping[str, Any], blind: Mapping[str, Any], base: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Put the runs of one model side by side.

    Args:
        sighted: What `evaluate` returned.
        blind: The same with `blind=True`; must have asked the same questions.
        base: The same questions asked of the checkpoint that the model was tuned from.

    Returns:
        `{"tasks": {kind: {"metric", "n", "score", "blind_score"[, "base_score"]}}, "receipts": {...}}`.

    Raises:
        ValueError: The runs did not ask the same questions.
    """
    runs = {"score": sighted, "blind": blind} | ({"base": base} if base is not None else {})
    for name, run in runs.items():
        for kind in sighted["tasks"]:
            mine, other = (r["receipt"]["tasks"].get(kind, {}).get("fingerprint") for r in (sighted, run))
            if mine != other:
                raise ValueError(
                    f"The {name} run asked other {kind} questions ({other} instead of {mine}); run it again."
                )
    tasks = {}
    for kind, result in sighted["tasks"].items():
        tasks[kind] = {**result, "blind_score": blind["tasks"][kind]["score"]}
        if base is not None:
            tasks[kind]["base_score"] = base["tasks"][kind]["score"]
    return {"tasks": tasks, "receipts": {name: run["receipt"] for name, run in runs.items()}}


def _run_lmms_eval(lm: FineViTVL, folder: Path, tasks: Sequence[str], seed: int) -> dict[str, Any]:
    manager = TaskManager(include_path=str(folder), include_defaults=False, model_name="finevit_vl")
    try:
        raw = simple_evaluate(
            model=lm,
            tasks=[task_name(kind) for kind in tasks],
            task_manager=manager,
            batch_size=lm.batch_size,
            bootstrap_iters=0,
            random_seed=seed,
            numpy_random_seed=seed,
            torch_random_seed=seed,
            fewshot_random_seed=seed,
            process_docs_parallel=1,
        )
    except RetryError as error:
        raise RuntimeError(f"lmms-eval gave up: {error.last_attempt.exception()!r}") from error
    if raw is None:
        raise RuntimeError("lmms-eval returned no results on this process; read them on rank 0.")
    return raw


def _task_result(kind: str, raw: Mapping[str, Any], expected: int) -> dict[str, Any]:
    metric = METRICS[kind]
    scores = raw["results"][task_name(kind)]
    n = len(raw["samples"][task_name(kind)])
    result = {"metric": metric.name, "n": n, "score": float(scores[f"{metric.key},none"])}
    result |= {name: float(scores[f"{key},none"]) for name, key in metric.others.items()}
    broken = [name for name, value in result.items() if isinstance(value, float) and not math.isfinite(value)]
    if n != expected or broken:
        raise RuntimeError(f"{kind}: {n} of {expected} questions were scored; not a number: {broken or 'none'}.")
    return result


def _task_receipt(kind: str, raw: Mapping[str, Any], lm: FineViTVL, n: int) -> dict[str, Any]:
    name = task_name(kind)
    config = raw["configs"][name]
    return {
        "n": n,
        "prompt": lm.answers[(name, 0)].prompt,
        "generation_kwargs": {k: v for k, v in config["generation_kwargs"].items() if v is not None},
        "fingerprint": rows_fingerprint(lm.task_dict[name]["test"]),
    }


def _sample(kind: str, sample: Mapping[str, Any], lm: FineViTVL) -> dict[str, Any]:
    """One line of samples_<kind>.jsonl."""
    doc, answer = sample["doc"], lm.answers[(task_name(kind), sample["doc_id"])]
    line = {
        "id": doc.get("question_id", doc.get("questionId")),
        "row": sample["doc_id"],
        "question": doc["question"],
        "truth": sample["target"],
        "prediction": sample["filtered_resps"][0],
        "text": answer.marked_text,
        "metric": METRICS[kind].name,
    }
    if kind != "grounding":
        return {**line, "score": float(sample[METRICS[kind].key])}
    record, size = sample[METRICS[kind].key], (doc["image_width"], doc["image_height"])
    iou = float(compute_iou(record["bbox"], record["pred"]))
    boxes = pixel_boxes(answer.marked_text, *size)
    truth = [round(value * size[i % 2], 3) for i, value in enumerate(record["bbox"])]
    return {**line, "truth": truth, "prediction": boxes[0] if boxes else None, "iou": iou, "score": float(iou >= 0.5)}


def _write(path: Path, text: str) -> None:
    aside = path.with_name(path.name + ".tmp")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)
