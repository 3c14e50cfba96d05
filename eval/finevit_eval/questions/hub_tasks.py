"""lmms-eval's own tasks over published data, by their own YAML, unmodified: names, scores, and traps.

The data lie in a folder as on the Hub: `lmms-lab-encoder/DocVQA/README.md` names the config, the parquet files lie
beside it. `datasets` takes a folder of the working directory that is called like the id of a dataset for that dataset,
and then neither asks for the token of `dataset_kwargs: {token: True}` nor for a connection.
"""

import hashlib
import random
from collections.abc import Iterator, Sequence
from contextlib import chdir
from operator import itemgetter
from pathlib import Path

import lmms_eval.tasks
from datasets import Dataset, DatasetDict
from lmms_eval.api.task import ConfigurableTask
from lmms_eval.tasks import TaskManager
from tenacity import RetryError

from finevit_eval.questions.harness import Asked, Place, asked_rows, picture_bytes
from finevit_eval.questions.scoring import Scoring, box_scoring
from finevit_eval.result import Settings

_THRESHOLDS = (0.1, 0.3, 0.7, 0.9)
_REFCOCO = box_scoring("refcoco", "answer", _THRESHOLDS)
PUBLISHED = {
    "docvqa_val": Scoring("anls"),
    "infovqa_val": Scoring("anls"),
    "chartqa": Scoring(
        "relaxed_overall", others={"human": "relaxed_human_split", "augmented": "relaxed_augmented_split"}
    ),
    "textvqa_val": Scoring("exact_match"),
    "ocrbench": Scoring("ocrbench_accuracy", itemgetter("score"), out_of=1000),
    "refcoco_bbox_rec_val": _REFCOCO,
    "refcoco_bbox_rec_test": _REFCOCO,
    "refcoco_bbox_rec_testA": _REFCOCO,
    "refcoco_bbox_rec_testB": _REFCOCO,
    "refcoco+_bbox_rec_val": _REFCOCO,
    "refcoco+_bbox_rec_testA": _REFCOCO,
    "refcoco+_bbox_rec_testB": _REFCOCO,
    "refcocog_bbox_rec_val": _REFCOCO,
    "refcocog_bbox_rec_test": _REFCOCO,
    "screenspot_rec_test": box_scoring("screenspot", "instruction", _THRESHOLDS),
}
"""Name of the task -> how its scores are read."""


def load_published(names: Sequence[str], data: Path, settings: Settings) -> dict[str, Asked]:
    """Tasks with their data, of which `settings.limit` questions are drawn.

    They are loaded anew for each run: lmms-eval's `ocrbench` counts right answers in its module and never resets that.

    Raises:
        ValueError: Data are missing, have another layout, or hold an empty box.
    """
    folders = {Path(lmms_eval.tasks.__file__).parent / name.partition("_")[0] for name in names}
    manager = TaskManager(include_path=sorted(map(str, folders)), include_defaults=False, model_name="finevit_vl")
    return {name: _load(name, manager, data, settings) for name in names}


def _load(name: str, manager: TaskManager, data: Path, settings: Settings) -> Asked:
    try:
        with chdir(data):
            task = manager.load_task_or_group([name], "chat")[name]
    except RetryError as error:
        raise ValueError(
            f"The data of {name} are neither in {data} nor can they be fetched ({error.last_attempt.exception()!r}); "
            f"put them where their id says: {data}/<owner>/<name>, README.md and parquet files as on the Hub."
        ) from error
    if PUBLISHED[name].boxes:
        _refuse_empty_boxes(name, asked_rows(task))
    drawn = _draw(task, settings)
    places = [Place(str(row), group, row) for row, group in zip(drawn, _picture_ids(asked_rows(task)), strict=True)]
    return Asked(task, PUBLISHED[name], places)


def _refuse_empty_boxes(name: str, rows: Dataset) -> None:
    """lmms-eval divides by the area of truth and answer together, which such a truth makes 0."""
    for index, (x1, y1, x2, y2) in enumerate(rows["bbox"]):
        if not (x1 < x2 and y1 < y2):
            raise ValueError(
                f"{name}: row {index} has the empty box {[x1, y1, x2, y2]} (fractions), by which lmms-eval cannot "
                "score; take that row out of the data."
            )


def _draw(task: ConfigurableTask, settings: Settings) -> list[int]:
    """Leave `settings.limit` questions in a task; returns their rows in the split."""
    split = task.config.test_split
    count = len(task.dataset[split])
    drawn = sorted(random.Random(settings.seed).sample(range(count), min(settings.limit or count, count)))
    task.dataset = DatasetDict({split: task.dataset[split].select(drawn)})
    task.dataset_no_image = DatasetDict({split: task.dataset_no_image[split].select(drawn)})
    return drawn


def _picture_ids(rows: Dataset) -> Iterator[str]:
    """SHA-256 of the picture of each row: not every schema names its pictures, and some name one picture twice."""
    return (hashlib.sha256(data).hexdigest() for data in picture_bytes(rows))
