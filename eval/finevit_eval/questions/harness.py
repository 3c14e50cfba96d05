"""lmms-eval asks tasks and scores them, through its Python API.

In process because lmms-eval's command line exits 0 whatever fails, and scans 1,985 built-in tasks first; here any
failure raises.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset, Image
from lmms_eval.api.task import ConfigurableTask
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager
from tenacity import RetryError

from finevit_eval.kept import KEPT_FILE, Kept
from finevit_eval.questions.adapter import FineViTVL
from finevit_eval.questions.resuming import kept_conditions
from finevit_eval.questions.scoring import Fields, Scoring, box_fields
from finevit_eval.receipts import rows_fingerprint
from finevit_eval.result import Measured, Outcome, Settings


class Place(NamedTuple):
    """Where a question comes from: its id, that of its picture, and the row of its picture in the data."""

    id: str
    group: str
    row: int


@dataclass(frozen=True)
class Asked:
    """A task of lmms-eval with its data, how it is scored, and the place of each question, in their order."""

    task: ConfigurableTask
    scoring: Scoring
    places: Sequence[Place]


def asked_rows(task: ConfigurableTask) -> Dataset:
    """The questions of a task with their pictures, in the order in which they are asked."""
    return task.dataset[task.config.test_split]


def picture_bytes(rows: Dataset) -> Iterator[bytes]:
    """The picture of each row, as a file holds it."""
    for picture in rows.cast_column("image", Image(decode=False))["image"]:
        yield picture["bytes"] or Path(picture["path"]).read_bytes()


@contextmanager
def loaded_model(model: str, out: Path, settings: Settings) -> Generator[FineViTVL]:
    """A FineViT-VL that does not answer again what an interrupted run with the same `out` has answered.

    Raises:
        ValueError: The model cannot be loaded, or this is one of several processes.
    """
    lm = FineViTVL(
        model,
        device=settings.device,
        dtype=settings.dtype,
        batch_size=settings.batch_size,
        max_pixels=settings.max_pixels,
        blind=settings.blind,
    )
    if lm.world_size > 1:
        raise ValueError("evaluate runs in one process; for several, launch `python -m lmms_eval`.")
    with Kept(out / KEPT_FILE, kept_conditions(model, lm.generator, settings)) as kept:
        lm.kept = kept
        yield lm


def ask(lm: FineViTVL, asked: Mapping[str, Asked], seed: int) -> Measured:
    """Ask the questions of some tasks.

    Args:
        asked: Tasks by the names of their evaluations.

    Raises:
        RuntimeError: lmms-eval failed, or lost questions.
    """
    try:
        raw = simple_evaluate(
            model=lm,
            tasks=[one.task for one in asked.values()],
            task_manager=TaskManager(include_defaults=False),
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
    outcomes = {name: _outcome(name, one, raw, lm) for name, one in asked.items()}
    facts = {
        "max_pixels": int(lm.generator.processor.image_processor.size["longest_edge"]),
        "device": str(lm.device),
        "dtype": str(lm.generator.model.dtype).removeprefix("torch."),
    }
    return Measured(outcomes, facts)


def _outcome(name: str, asked: Asked, raw: Mapping[str, Any], lm: FineViTVL) -> Outcome:
    task = asked.task.config.task
    found, scores = raw["samples"][task], raw["results"][task]
    if len(found) != len(asked.places):
        raise RuntimeError(f"{name}: {len(found)} of {len(asked.places)} questions were scored.")
    rows = asked_rows(asked.task)
    generation = raw["configs"][task]["generation_kwargs"]
    return Outcome(
        score=asked.scoring.headline(scores, len(found)),
        samples=[_sample(asked, sample, lm, rows) for sample in found],
        others=asked.scoring.further(scores),
        controls={"shuffled": _shuffled(asked, found)} if len(found) > 1 else {},
        facts={
            "prompt": lm.answers[(task, 0)].prompt,
            "generation_kwargs": {key: value for key, value in generation.items() if value is not None},
            "fingerprint": rows_fingerprint(rows),
        },
        pictures=lambda ids: _pictures(asked, ids),
    )


def _pictures(asked: Asked, ids: set[str]) -> Iterator[tuple[str, bytes]]:
    """Pictures by their ids."""
    rows = {place.group: index for index, place in enumerate(asked.places) if place.group in ids}
    return zip(rows, picture_bytes(asked_rows(asked.task).select(list(rows.values()))), strict=True)


def _sample(asked: Asked, sample: Mapping[str, Any], lm: FineViTVL, rows: Dataset) -> Fields:
    """One line of the samples."""
    scoring, index = asked.scoring, sample["doc_id"]
    answer = lm.answers[(asked.task.config.task, index)]
    doc = asked.task.eval_docs_no_media[index]  # sample["doc"] is what `process_results` made of it
    shown = {"truth": doc.get("answers", sample["target"]), "prediction": sample["filtered_resps"][0]}
    if scoring.boxes:
        shown = box_fields(sample[scoring.key], answer.marked_text, rows[index]["image"].size)
    return {
        **asked.places[index]._asdict(),
        "question": doc[scoring.question],
        **shown,
        "text": answer.marked_text,
        "score": scoring.of_one(sample[scoring.key]),
    }


def _shuffled(asked: Asked, found: Sequence[Mapping[str, Any]]) -> float:
    """The score of the same answers, each given to the question half the list away: what answers are worth that do not
    look at the picture or the question, but only know what such answers are like.
    """
    docs = asked.task.eval_docs_no_media
    half = len(found) // 2
    scores = [
        asked.scoring.of_one(
            asked.task.process_results(docs[sample["doc_id"]], other["filtered_resps"])[asked.scoring.key]
        )
        for sample, other in zip(found, [*found[half:], *found[:half]], strict=True)
    ]
    return float(np.mean(scores))
