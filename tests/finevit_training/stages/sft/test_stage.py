"""A run that counts epochs, and the data that one is measured on."""

import json
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoProcessor

from finevit_training.data.order import RoundKey
from finevit_training.stages.running import prepare_run, train
from finevit_training.stages.sft.stage import STAGE
from tests.support.training_data import ids_of, write_records


def test_a_run_of_one_and_a_half_epochs_is_two_thirds_through_after_the_first(trainer_for):
    trainer = trainer_for(max_steps=-1, num_train_epochs=1.5)
    assert trainer.loader.fraction(RoundKey(0, 0), 0) == 0
    assert trainer.loader.fraction(RoundKey(1, 0), 0) == pytest.approx(2 / 3)
    assert trainer.loader.fraction(RoundKey(2, 0), 0) == 1


@pytest.mark.parametrize("config", [{"spatial_merge_size": 1}, {"spatial_merge_size": 4}, {"patch_size": 16}])
def test_a_processor_from_scratch_packs_as_the_tower_reads(recipe_for, config):
    flags = {"vision_config": json.dumps({"num_hidden_layers": 1, **config}), "max_length": 2048, "max_pixels": 112**2}
    out = train(prepare_run(STAGE, recipe_for(**flags, max_steps=1)))
    images, vision = AutoProcessor.from_pretrained(out).image_processor, AutoConfig.from_pretrained(out).vision_config
    assert (images.patch_size, images.merge_size) == (vision.patch_size, vision.spatial_merge_size)
    assert config.items() <= vision.to_dict().items()


def measured_on(trainer):
    return set(ids_of(trainer.get_eval_dataloader()))


def test_the_loss_is_measured_on_other_data_than_the_training_s(trainer_for, records, tmp_path):
    folders = {name: write_records(some, tmp_path / name) for name, some in (("a", records[:9]), ("b", records[9:]))}
    trainer = trainer_for(data=folders["a"], eval_data=folders["b"], eval_strategy="steps")
    assert measured_on(trainer) == {record["id"] for record in records[9:]}
    trainer.train()
    assert trainer.evaluate()["eval_loss"] > 0


def test_the_rows_and_questions_of_an_evaluation_are_the_same_for_every_seed(trainer_for, records, tmp_path):
    data = {"data": write_records(records[:9], tmp_path / "a"), "eval_data": write_records(records, tmp_path / "b")}
    flags = {**data, "eval_strategy": "steps", "eval_records": 16}
    first, second = (trainer_for(**flags, seed=seed).get_eval_dataloader() for seed in (1, 2))
    one, other = (next(iter(loader)) for loader in (first, second))
    assert one["input_ids"].tolist() == other["input_ids"].tolist()
    assert 0 < len(set(ids_of(first))) < len(records)


def test_an_evaluation_on_a_source_with_a_split_of_its_own_takes_another_split(trainer_for, records, tmp_path):
    folder = Path(write_records(records[:9], tmp_path / "a"))
    kept = [{**record, "split": "validation"} for record in records[9:]]
    Path(write_records(kept, tmp_path / "b"), "data/train-00000-of-00001.parquet").rename(
        folder / "data/validation-00000-of-00001.parquet"
    )
    flags = {"data": json.dumps({"path": str(folder), "split": "train"}), "eval_strategy": "steps"}
    assert measured_on(trainer_for(**flags)) == {record["id"] for record in records[9:]}


def test_an_evaluation_measures_every_row_once_whatever_the_weights_of_the_training(trainer_for, records, tmp_path):
    folder = Path(write_records(records[:9], tmp_path / "a"))
    kept = [{**record, "split": "validation"} for record in records[9:]]
    Path(write_records(kept, tmp_path / "b"), "data/train-00000-of-00001.parquet").rename(
        folder / "data/validation-00000-of-00001.parquet"
    )
    trainer = trainer_for(data=json.dumps({"path": str(folder), "weight": 3}), eval_strategy="steps")
    measured = ids_of(trainer.get_eval_dataloader())
    assert sorted(measured) == sorted(record["id"] for record in kept)


def test_a_split_that_is_not_there_names_the_evaluation(trainer_for):
    with pytest.raises(ValueError, match=r"no files of the split 'validation'.* This is about the evaluation"):
        trainer_for(eval_strategy="steps")
