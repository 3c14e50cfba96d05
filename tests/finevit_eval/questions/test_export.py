"""The exported rows are what lmms-eval's own tasks expect, with lmms-eval's own prompts."""

from pathlib import Path

import datasets
import lmms_eval.tasks
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager
from lmms_eval.tasks.refcoco.utils_rec import refcoco_bbox_rec_doc_to_text, refcoco_bbox_rec_preprocess_dataset

from finecap.features import FINECAP_FEATURES
from finevit_eval.questions.adapter import FineViTVL
from finevit_eval.questions.export import build_tasks
from finevit_eval.questions.tasks.utils import grounding_process_results, grounding_rows
from finevit_eval.receipts import rows_fingerprint

LMMS_EVAL_TASKS = Path(lmms_eval.tasks.__file__).parent


@pytest.fixture(scope="module")
def built(corpus, tmp_path_factory):
    return build_tasks(corpus, tmp_path_factory.mktemp("tasks"))


def rows(built, kind):
    return Dataset.from_parquet(str(built.folder / f"finevit_{kind}.parquet"))


def builtin_task(name: str, include: str, split: str, parquet: Path, folder: Path) -> TaskManager:
    """A built-in task of lmms-eval under another name over our rows; nothing else is changed."""
    (folder / "own.yaml").write_text(
        f"include: {LMMS_EVAL_TASKS / include}\ntask: {name}\ndataset_path: parquet\n"
        f"dataset_name: null\ndataset_kwargs:\n  data_files:\n    {split}: {parquet}\ntest_split: {split}\n"
    )
    return TaskManager(include_path=str(folder), include_defaults=False)


def test_every_question_is_exported_once(built, corpus):
    assert built.num_rows == {"doc": 10, "chart": 10, "grounding": 10, "easyvqa": 10}
    assert sorted(rows(built, "doc")["questionId"]) == sorted(f"record-{i}/0" for i in range(10))
    assert built.skipped == []


def test_the_picture_belongs_to_the_question(built, make_record):
    pictures = {f"record-{i}": make_record(i)["image"]["bytes"] for i in range(10)}
    for row in pq.read_table(built.folder / "finevit_grounding.parquet").to_pylist():
        assert row["image"]["bytes"] == pictures[row["file_name"]]


def test_a_limit_draws_a_prefix_of_the_same_shuffle(corpus, built, tmp_path):
    few = build_tasks(corpus, tmp_path, ["doc"], limit=4)
    assert rows(few, "doc")["questionId"][:] == rows(built, "doc")["questionId"][:4]
    other = build_tasks(corpus, tmp_path, ["doc"], limit=4, seed=1)
    assert rows(other, "doc")["questionId"][:] != rows(built, "doc")["questionId"][:4]


def test_grounding_rows_equal_lmms_evals_own_preprocessing(built):
    exported = rows(built, "grounding")
    ours, theirs = grounding_rows(exported), refcoco_bbox_rec_preprocess_dataset(exported)
    assert len(ours) == len(theirs) == 10
    for mine, other in zip(ours, theirs, strict=True):
        assert mine["answer"] == other["answer"]
        assert mine["bbox"] == pytest.approx(other["bbox"])
        assert mine["image"].tobytes() == other["image"].tobytes()
        assert refcoco_bbox_rec_doc_to_text(mine) == refcoco_bbox_rec_doc_to_text(other)


def test_several_expressions_of_a_picture_become_several_rows(built):
    exported = rows(built, "grounding").select([0]).map(lambda row: {"answer": ["left one", "red one"]})
    assert grounding_rows(exported)["answer"][:] == ["left one", "red one"]


@pytest.mark.parametrize(
    ("kind", "include", "split", "metric"),
    [
        ("doc", "docvqa/docvqa_val.yaml", "validation", "anls"),
        ("chart", "chartqa/chartqa.yaml", "test", "relaxed_overall"),
        ("grounding", "refcoco/_default_template_bbox_rec_yaml", "test", "refcoco_ACC@0.5"),
    ],
)
def test_the_built_in_task_asks_and_scores_the_same(oracle, model_dir, built, tmp_path, kind, include, split, metric):
    name = {"grounding": "refcoco_bbox_rec_own"}.get(kind, f"{kind}_own")
    theirs = builtin_task(name, include, split, built.folder / f"finevit_{kind}.parquet", tmp_path)
    scored = simple_evaluate(FineViTVL(str(model_dir)), tasks=[name], task_manager=theirs, bootstrap_iters=0)
    assert scored["results"][name][f"{metric},none"] == 1.0
    ours = TaskManager(include_path=str(built.folder), include_defaults=False)
    mine = ours.load_task_or_group([f"finevit_{kind}"], "chat")[f"finevit_{kind}"]
    other = theirs.load_task_or_group([name], "chat")[name]
    for my_doc, other_doc in zip(mine.test_docs(), other.test_docs(), strict=True):
        assert mine.doc_to_text(my_doc) == other.doc_to_text(other_doc)
    assert mine.config.generation_kwargs == other.config.generation_kwargs


@pytest.mark.parametrize("box", ["[0.5, 0.5, 0.5, 0.9]", "[0.9, 0.9, 0.1, 0.1]", "[0.9, 0.1, 0.1, 0.9]", "none"])
def test_degenerate_predictions_count_as_no_box(box):
    doc = {"question_id": "q", "answer": "x", "bbox": [0.1, 0.1, 0.4, 0.4]}
    assert all(record["pred"] == [0, 0, 0, 0] for record in grounding_process_results(doc, [box]).values())


@pytest.mark.parametrize(
    ("answer", "reason"),
    [("[5, 5, 5, 20]", "empty or outside"), ("[0, 0, 200, 20]", "empty or outside"), ("left", "not JSON of four")],
)
def test_a_bad_box_is_skipped_with_its_id_and_reason(make_record, tmp_path, answer, reason):
    record = make_record(0)
    record["qa"].append({"question": "nothing", "answers": [answer], "kind": "grounding"})
    (tmp_path / "data").mkdir()
    Dataset.from_list([record], features=FINECAP_FEATURES).to_parquet(tmp_path / "data/test-00000-of-00001.parquet")
    built = build_tasks(tmp_path, tmp_path / "tasks", ["grounding"])
    assert built.num_rows == {"grounding": 1}
    assert len(built.skipped) == 1
    assert built.skipped[0].startswith("record-0: ")
    assert reason in built.skipped[0]


def test_a_folder_without_the_split_is_named(tmp_path):
    with pytest.raises(ValueError, match="finevit corpus build"):
        build_tasks(tmp_path, tmp_path / "out")


def test_the_fingerprint_follows_every_change_of_the_rows(built):
    exported = rows(built, "doc")
    same = rows_fingerprint(exported)
    assert rows_fingerprint(rows(built, "doc")) == same
    order = rows_fingerprint(exported.select([1, 0, *range(2, 10)]))
    word = exported.map(lambda row, i: {"question": row["question"] + "?" * (i == 3)}, with_indices=True)
    stored = exported.cast_column("image", datasets.Image(decode=False))
    picture = stored.map(
        lambda row, i: {"image": {"bytes": row["image"]["bytes"] + b"\0" * (i == 3), "path": None}}, with_indices=True
    )
    assert len({same, order, rows_fingerprint(word), rows_fingerprint(picture)}) == 4
