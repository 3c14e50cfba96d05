"""Stage III killed and resumed, and fine-tuned from, by the real scripts."""

import pytest
from safetensors.torch import load_file

from modeling_finevit import FineViTConfig, FineViTImageProcessorPil, FineViTModel
from tests.support.launching import SMALLEST, finish, kill_after_step, launch, losses

SMALLEST_ALIGN = {name: value for name, value in SMALLEST.items() if name != "vision_config"}
STEPS = 8


@pytest.fixture
def encoder(tmp_path):
    FineViTModel(FineViTConfig.from_size("nano", num_hidden_layers=2)).save_pretrained(tmp_path / "encoder")
    FineViTImageProcessorPil().save_pretrained(tmp_path / "encoder")
    return tmp_path / "encoder"


def launch_align(**flags):
    return launch(entry=("-m", "finevit_training.align"), smallest={**SMALLEST_ALIGN, "mixture": "paper"}, **flags)


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_bit_and_is_fine_tuned_from(nano_corpus, encoder, tmp_path):
    flags = {"data": nano_corpus, "vision": encoder, "max_steps": STEPS, "projector_warmup_steps": 3}
    finish(launch_align(**flags, output_dir=tmp_path / "whole"))
    flags["output_dir"] = tmp_path / "broken"
    kill_after_step(launch_align(**flags, save_strategy="steps", save_steps=2), 5)
    assert not (tmp_path / "broken" / "config.json").exists()
    finish(launch_align(**flags, resume_from_checkpoint="last"))
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")
    for part in (".", "encoder"):
        first, second = (load_file(tmp_path / name / part / "model.safetensors") for name in ("whole", "broken"))
        assert all(first[name].equal(second[name]) for name in first)
    kept = {name: SMALLEST[name] for name in ("max_length", "bf16", "logging_steps", "per_device_train_batch_size")}
    tuned = {"model": tmp_path / "broken", "data": nano_corpus, "output_dir": tmp_path / "tuned", "max_steps": 1}
    finish(launch(smallest=kept, **tuned))
    assert losses(tmp_path / "tuned")[0] < losses(tmp_path / "whole")[0]


@pytest.mark.slow
def test_two_ranks_give_the_curve_of_one_with_the_same_batch(nano_corpus, encoder, tmp_path):
    flags = {"data": nano_corpus, "vision": encoder, "max_steps": 4, "projector_warmup_steps": 2}
    finish(launch_align(**flags, processes=2, per_device_train_batch_size=2, output_dir=tmp_path / "two"))
    finish(launch_align(**flags, output_dir=tmp_path / "one"))
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
