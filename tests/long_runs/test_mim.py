"""Stage I killed and resumed, and on two ranks, by its real script."""

import pytest
from safetensors.torch import load_file

from finevit_training.stages.mim.stage import build_trainer
from tests.support.launching import finish, kill_after_step, launch, losses
from tests.support.mim_runs import SMALLEST_MIM, losses_of, mim_recipe, save_teacher

STEPS = 10


def launch_mim(**flags):
    return launch(entry=("-m", "finevit_training.mim"), smallest=SMALLEST_MIM, **flags)


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_bit_with_a_cache_that_it_was_writing(nano_corpus, tmp_path):
    flags = {"data": nano_corpus, "max_steps": STEPS, "teacher": save_teacher(tmp_path / "teacher")}
    finish(launch_mim(**flags, output_dir=tmp_path / "whole", teacher_cache=tmp_path / "first"))
    flags |= {"output_dir": tmp_path / "broken", "teacher_cache": tmp_path / "second"}
    kill_after_step(launch_mim(**flags, save_strategy="steps", save_steps=2), 5)
    assert not (tmp_path / "broken" / "config.json").exists()
    finish(launch_mim(**flags, resume_from_checkpoint="last"))
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "broken"))
    assert all(first[name].equal(second[name]) for name in first)


@pytest.mark.slow
def test_two_ranks_give_the_curve_of_one_with_the_same_batch(nano_corpus, tmp_path):
    """Masked patches of a pack differ from rank to rank, so a loss that each rank divides by its own would differ."""
    flags = {"data": nano_corpus, "max_steps": STEPS, "mask": "block", "output_dir": tmp_path / "two"}
    finish(launch_mim(**flags, processes=2))
    alone = build_trainer(mim_recipe(**flags, per_device_train_batch_size=2))
    alone.train()
    assert losses(tmp_path / "two") == pytest.approx(losses_of(alone), rel=1e-5)
    assert len(losses_of(alone)) == STEPS
