"""What a bad loss does: which one is bad, that its step changes nothing, and that it is known again after a resume."""

import json
from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback

from finevit_training.loop.stops import BAD_LOSS_FILE, MOST_IN_A_ROW, REMEMBERED, LossGuard


def test_a_loss_is_bad_if_it_is_no_number_or_leaps_above_the_median_of_the_last():
    guard = LossGuard("skip", spike_factor=3)
    assert guard.judge(1000.0) is None  # nothing to compare it with yet
    for _ in range(REMEMBERED):
        assert guard.judge(1.0) is None
    assert guard.judge(2.9) is None
    assert guard.judge(3.1) == "is 3.1 and the median of the last 50 steps 1"
    assert guard.judge(float("nan")) == "is nan"
    assert guard.judge(1.0) is None
    assert LossGuard("skip").judge(float("inf")) == "is inf"


def test_a_loss_after_losses_of_nothing_is_a_leap_and_no_bug():
    guard = LossGuard("skip", spike_factor=3)
    assert not any(guard.judge(0.0) for _ in range(REMEMBERED))
    assert guard.judge(0.0) is None
    assert "median" in str(guard.judge(0.1))


def test_without_a_factor_no_number_is_too_large():
    guard = LossGuard("skip")
    assert not any(guard.judge(loss) for loss in [1.0] * REMEMBERED + [1e9])


def test_bad_losses_end_the_run_at_once_or_when_nothing_else_comes():
    guard = LossGuard("stop")
    guard.judge(float("nan"))
    assert guard.ends_run()
    guard = LossGuard("skip")
    for _ in range(MOST_IN_A_ROW):
        guard.judge(float("nan"))
        assert not guard.ends_run()
    guard.judge(float("nan"))
    assert guard.ends_run()
    guard.judge(1.0)
    guard.judge(float("nan"))
    assert not guard.ends_run()


class Poison(TrainerCallback):
    """Makes the loss of one step no number."""

    def __init__(self, trainer, step):
        self.trainer, self.step, self.weights = trainer, step, []
        trainer.model.register_forward_hook(self.spoil, with_kwargs=True)

    def spoil(self, module, args, kwargs, outputs):
        if self.trainer.state.global_step + 1 == self.step:
            outputs.logits = outputs.logits * torch.nan
        return outputs

    def on_step_end(self, args, state, control, **kwargs):
        self.weights.append(next(self.trainer.model.parameters()).detach().clone())


def test_a_step_that_is_left_out_changes_no_weight_and_its_ids_are_kept(trainer_for):
    trainer = trainer_for(max_steps=4, on_bad_loss="skip", weight_decay=0.1, lr_scheduler_type="constant")
    poison = Poison(trainer, 2)
    trainer.add_callback(poison)
    trainer.train()
    first, second, third, _ = poison.weights
    assert torch.equal(first, second)
    assert not torch.equal(second, third)
    (line,) = (Path(trainer.args.output_dir) / BAD_LOSS_FILE).read_text().splitlines()
    report = json.loads(line)
    assert (report["step"], report["wrong"]) == (2, "is nan")
    assert report["batches"][0]["ids"]
    assert all(entry["loss"] == entry["loss"] for entry in trainer.state.log_history if "loss" in entry)


def test_a_resumed_run_remembers_the_losses_before(trainer_for):
    trainer = trainer_for(max_steps=4, save_strategy="steps", save_steps=2)
    trainer.train()
    resumed = trainer_for(max_steps=4)
    resumed.train(resume_from_checkpoint=str(Path(trainer.args.output_dir) / "checkpoint-2"))
    assert list(resumed.stops.guard.recent) == list(trainer.stops.guard.recent)
    assert len(resumed.stops.guard.recent) == 4


def test_a_run_too_short_for_a_leap_refuses_the_factor(trainer_for):
    with pytest.raises(ValueError, match=r"spike_factor would have no effect: .* the run has 50 steps; leave it out"):
        trainer_for(max_steps=REMEMBERED, spike_factor=3)
    trainer_for(max_steps=REMEMBERED + 1, spike_factor=3)


@pytest.mark.parametrize("flags", [{"spike_factor": 0.5}, {"ema_decay": 1.5}])
def test_factors_that_make_no_sense_are_refused(recipe_for, flags):
    with pytest.raises(ValueError, match=next(iter(flags))):
        recipe_for(**flags)
