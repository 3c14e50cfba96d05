"""Two processes on one machine, with gloo: they agree on checkpoints and stops, and lose nothing of the other's."""

import json

import datasets
import pytest

from finevit_training.loop.stops import BAD_LOSS_FILE
from finevit_training.recipe import parse_recipe
from finevit_training.stages.sft.stage import build_trainer
from tests.support.launching import SMALLEST, finish, launch
from tests.support.paths import ROOT


@pytest.fixture(scope="module")
def ranks(nano_corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("two_ranks")
    script = (str(ROOT / "tests" / "support" / "two_ranks.py"), str(out), str(nano_corpus))
    finish(launch(processes=2, entry=script))
    return out, [json.loads((out / f"rank{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.slow
def test_nodes_without_a_shared_disk_agree_on_the_newest_checkpoint_of_all_and_delete_none(ranks):
    _, seen = ranks
    assert [rank["common"] for rank in seen] == ["checkpoint-2", "checkpoint-2"]
    assert seen[0]["kept"] == ["checkpoint-2", "checkpoint-4"]
    assert all("some nodes only" in rank["only_one"] for rank in seen)
    assert [rank["nowhere"] for rank in seen] == [None, None]


@pytest.mark.slow
def test_a_loss_that_is_no_number_on_one_rank_stops_all_at_that_step_with_one_file(ranks):
    out, seen = ranks
    assert [rank["step"] for rank in seen] == [1, 1]
    assert all("the loss of step 2 is nan" in rank["stopped"] for rank in seen)
    report = json.loads((out / "run" / BAD_LOSS_FILE).read_text())
    assert [batch["rank"] for batch in report["batches"] if batch["loss"] == "nan"] == [1]
    assert all(batch["ids"] for batch in report["batches"])


@pytest.mark.slow
def test_the_loss_of_an_evaluation_does_not_depend_on_ranks_or_batch_size(ranks, nano_corpus, tmp_path):
    _, seen = ranks
    flags = {**SMALLEST, "data": nano_corpus, "output_dir": tmp_path, "max_steps": 2}
    flags |= {"eval_strategy": "steps", "eval_split": "train", "per_device_eval_batch_size": 7}
    recipe = parse_recipe([part for key, value in flags.items() for part in (f"--{key}", str(value))])
    alone = build_trainer(recipe).evaluate()["eval_loss"]
    assert seen[0]["eval_loss"] == seen[1]["eval_loss"] == pytest.approx(alone, rel=1e-5)


@pytest.mark.slow
def test_the_skipped_records_of_all_ranks_are_reported_over_a_resume(nano_corpus, tmp_path):
    records = datasets.load_dataset(str(nano_corpus), split="train").cast_column("image", datasets.Image(decode=False))
    broken = set(records["id"][:6])
    records = records.map(lambda row: {"image": {"bytes": b"no picture", "path": None}} if row["id"] in broken else {})
    (tmp_path / "corpus" / "data").mkdir(parents=True)
    records.to_parquet(str(tmp_path / "corpus" / "data" / "train-00000-of-00001.parquet"))
    flags = {"data": tmp_path / "corpus", "output_dir": tmp_path / "out", "per_device_train_batch_size": 8}
    finish(launch(processes=2, **flags, max_steps=3, save_strategy="steps", save_steps=3))
    assert set(json.loads((tmp_path / "out" / "skipped_records.json").read_text())) == broken
    output = finish(launch(**flags, max_steps=7, gradient_accumulation_steps=2, resume_from_checkpoint="last"))
    assert set(json.loads((tmp_path / "out" / "skipped_records.json").read_text())) == broken
    assert "skipped 6" in output
