"""The average of the encoder's weights: what it is, over a resume, and the folder that holds it."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from finevit_training.loop.averaging import AVERAGE_FILE
from finevit_training.stages.running import prepare_run, train
from finevit_training.stages.sft.stage import STAGE
from modeling_finevit import FineViTModel

KEY = "layers.0.mlp.up_proj.weight"


class Seen(TrainerCallback):
    """A weight of the encoder after every step, and before the first."""

    def __init__(self, trainer):
        self.parameter = dict(trainer.model.model.vision_tower.named_parameters())[KEY]
        self.values = [self.parameter.detach().clone()]

    def on_step_end(self, args, state, control, **kwargs):
        self.values.append(self.parameter.detach().clone())


def test_the_average_is_that_of_the_weights_after_each_step(trainer_for):
    trainer = trainer_for(max_steps=3, ema_decay=0.25)
    seen = Seen(trainer)
    trainer.add_callback(seen)
    trainer.train()
    expected = seen.values[0]
    for step, value in enumerate(seen.values[1:], start=1):
        kept = min(0.25, (1 + step) / (10 + step))
        expected = kept * expected + (1 - kept) * value
    torch.testing.assert_close(trainer.average.state_dict()[KEY], expected)
    assert not torch.allclose(expected, seen.values[-1], atol=1e-6)  # it is not the last weights


def test_a_resumed_run_averages_on(trainer_for):
    whole = trainer_for(max_steps=4, ema_decay=0.9, save_strategy="steps", save_steps=2)
    whole.train()
    checkpoint = Path(whole.args.output_dir) / "checkpoint-2"
    assert KEY in load_file(checkpoint / AVERAGE_FILE)
    resumed = trainer_for(max_steps=4, ema_decay=0.9)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert resumed.state.total_flos == whole.state.total_flos > 0
    for name, value in resumed.average.state_dict().items():
        assert torch.equal(value, whole.average.state_dict()[name]), name


def test_a_checkpoint_without_an_average_is_refused(trainer_for):
    whole = trainer_for(max_steps=2, save_strategy="steps", save_steps=1)
    whole.train()
    checkpoint = Path(whole.args.output_dir) / "checkpoint-1"
    resumed = trainer_for(max_steps=2, ema_decay=0.9)
    with pytest.raises(ValueError, match="had no ema_decay"):
        resumed.train(resume_from_checkpoint=str(checkpoint))


def test_the_finished_folder_holds_the_averaged_encoder_as_a_model(recipe_for):
    run = prepare_run(STAGE, recipe_for(max_steps=2, ema_decay=0.5))
    out = train(run)
    averaged = FineViTModel.from_pretrained(out / "ema")
    encoder = FineViTModel.from_pretrained(out)
    assert torch.equal(averaged.state_dict()[KEY], run.trainer.average.state_dict()[KEY])
    assert not torch.equal(averaged.state_dict()[KEY], encoder.state_dict()[KEY])
    assert (out / "ema" / "preprocessor_config.json").is_file()
