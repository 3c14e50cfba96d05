"""The runner of the question kinds: exports them, and has lmms-eval ask and score them through its Python API.

In process because lmms-eval's command line exits 0 whatever fails, and scans 1,985 built-in tasks first; here any
failure raises.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager
from tenacity import RetryError

from finevit_eval.questions.adapter import FineViTVL
from finevit_eval.questions.export import build_tasks, task_name
from finevit_eval.questions.kinds import KINDS
from finevit_eval.receipts import rows_fingerprint
from finevit_eval.result import Measured, Outcome, Settings


def ask_questions(kinds: Sequence[str], model: str, data: Path, out: Path, settings: Settings) -> Measured:
    """Ask a FineViT-VL the questions of a FineCap split.

    Args:
        kinds: Of `KINDS`.
        model: Folder of model and processor, or a Hub id.
        data: FineCap records in the Hub's layout.
        out: The exported tasks go to `<out>/tasks`, ready for lmms-eval's own command line.
        settings: How.

    Raises:
        ValueError: Model, data or settings cannot be used.
        RuntimeError: lmms-eval failed, or lost questions.
    """
    built = build_tasks(data, out / "tasks", kinds, settings.split, settings.limit, settings.seed)
    lm = FineViTVL(
        model,
        device=settings.device,
        dtype=settings.dtype,
        batch_size=settings.batch_size,
        max_pixels=settings.max_pixels,
        blind=settings.blind,
    )
    if lm.world_size > 1:
        raise ValueError(f"evaluate runs in one process; for several, launch `python -m lmms_eval` on {built.folder}.")
    raw = _run_lmms_eval(lm, built.folder, kinds, settings.seed)
    outcomes = {kind: _outcome(kind, raw, lm, built.num_rows[kind], built.folder) for kind in kinds}
    facts = {
        "max_pixels": int(lm.generator.processor.image_processor.size["longest_edge"]),
        "device": str(lm.device),
        "dtype": str(lm.generator.model.dtype).removeprefix("torch."),
        "skipped": built.skipped,
    }
    return Measured(outcomes, facts)


def _run_lmms_eval(lm: FineViTVL, folder: Path, kinds: Sequence[str], seed: int) -> dict[str, Any]:
    manager = TaskManager(include_path=str(folder), include_defaults=False, model_name="finevit_vl")
    try:
        raw = simple_evaluate(
            model=lm,
            tasks=[task_name(kind) for kind in kinds],
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


def _outcome(kind: str, raw: Mapping[str, Any], lm: FineViTVL, expected: int, folder: Path) -> Outcome:
    name = task_name(kind)
    scores, config = raw["results"][name], raw["configs"][name]
    samples = [_sample(kind, sample, lm) for sample in raw["samples"][name]]
    if len(samples) != expected:
        raise RuntimeError(f"{kind}: {len(samples)} of {expected} questions were scored.")
    return Outcome(
        score=float(scores[f"{KINDS[kind].score_key},none"]),
        samples=samples,
        others={other: float(scores[f"{key},none"]) for other, key in KINDS[kind].others.items()},
        facts={
            "prompt": lm.answers[(name, 0)].prompt,
            "generation_kwargs": {k: v for k, v in config["generation_kwargs"].items() if v is not None},
            "fingerprint": rows_fingerprint(lm.task_dict[name]["test"]),
        },
        pictures=lambda ids: _pictures(folder / f"{name}.parquet", samples, ids),
    )


def _pictures(task: Path, samples: Sequence[Mapping[str, Any]], ids: set[str]) -> Iterator[tuple[str, bytes]]:
    """Pictures of an exported task by the groups of its samples."""
    rows = {sample["group"]: sample["row"] for sample in samples if sample["group"] in ids}
    images = pq.read_table(task, columns=["image"])["image"]
    return ((name, images[row].as_py()["bytes"]) for name, row in rows.items())


def _sample(kind: str, sample: Mapping[str, Any], lm: FineViTVL) -> dict[str, Any]:
    """One line of samples_<kind>.jsonl."""
    doc, answer = sample["doc"], lm.answers[(task_name(kind), sample["doc_id"])]
    question_id = doc.get("question_id", doc.get("questionId"))
    return {
        "id": question_id,
        "group": question_id.rpartition("/")[0],
        "row": sample["doc_id"],
        "question": doc["question"],
        "truth": sample["target"],
        "prediction": sample["filtered_resps"][0],
        "text": answer.marked_text,
        **KINDS[kind].judged(sample, answer.marked_text),
    }
