"""The runners of questions: of FineCap records, of published data, and of all of easy-vqa."""

from collections.abc import Sequence
from contextlib import chdir
from dataclasses import replace
from pathlib import Path

from lmms_eval.tasks import TaskManager

from finevit_eval.questions.export import build_tasks, task_name
from finevit_eval.questions.harness import Asked, Place, ask, asked_rows, loaded_model
from finevit_eval.questions.hub_tasks import load_published
from finevit_eval.questions.kinds import KINDS
from finevit_eval.questions.whole_easyvqa import prior_score, write_easyvqa
from finevit_eval.result import Measured, Settings


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
    with loaded_model(model, out, settings) as lm:
        measured = ask(lm, {kind: _exported(kind, built.folder) for kind in kinds}, settings.seed)
    return replace(measured, facts={**measured.facts, "skipped": built.skipped})


def _exported(kind: str, folder: Path) -> Asked:
    manager = TaskManager(include_path=str(folder), include_defaults=False, model_name="finevit_vl")
    task = manager.load_task_or_group([task_name(kind)], "chat")[task_name(kind)]
    rows = asked_rows(task)
    ids = rows["questionId" if "questionId" in rows.column_names else "question_id"]
    return Asked(task, KINDS[kind].scoring, [Place(id, id.rpartition("/")[0], row) for row, id in enumerate(ids)])


def ask_published(names: Sequence[str], model: str, data: Path, out: Path, settings: Settings) -> Measured:
    """Ask a FineViT-VL the questions of published data, by lmms-eval's own tasks.

    Args:
        names: Of `finevit_eval.questions.hub_tasks.PUBLISHED`.
        model: Folder of model and processor, or a Hub id.
        data: Holds copies of the datasets, in folders that are named like them on the Hub.
        out: What lmms-eval writes itself (submissions) goes to `<out>/lmms_eval`.
        settings: How.

    Raises:
        ValueError: Model, data or settings cannot be used.
        RuntimeError: lmms-eval failed, or lost questions.
    """
    _own_split(names, settings)
    asked = load_published(names, data, settings)
    (out / "lmms_eval").mkdir(parents=True, exist_ok=True)
    with loaded_model(model, out, settings) as lm, chdir(out / "lmms_eval"):
        return ask(lm, asked, settings.seed)


def ask_easyvqa(names: Sequence[str], model: str, out: Path, settings: Settings) -> Measured:
    """Ask a FineViT-VL all 9,673 test questions of the package easy-vqa.

    Args:
        names: Of the one evaluation.
        model: Folder of model and processor, or a Hub id.
        out: The questions go to `<out>/easyvqa` as FineCap records.
        settings: How.

    Raises:
        ValueError: Model or settings cannot be used, or the package is not installed.
        RuntimeError: lmms-eval failed, or lost questions.
    """
    _own_split(names, settings)
    write_easyvqa(out / "easyvqa")
    measured = ask_questions(["easyvqa"], model, out / "easyvqa", out, settings)
    outcome = measured.outcomes["easyvqa"]
    controls = {**outcome.controls, "prior": prior_score(outcome.samples)}
    return replace(measured, outcomes={name: replace(outcome, controls=controls) for name in names})


def _own_split(names: Sequence[str], settings: Settings) -> None:
    if settings.split != Settings().split:
        raise ValueError(f"{names[0]} has a split of its own; leave --split out (it is {settings.split}).")
