"""Launches that a run cannot be finished or trained well with are refused before anything is loaded."""

import pytest

from finevit_training.loop.support import refuse_setup
from finevit_training.recipe import parse_recipe


def test_zero_3_is_refused_and_zero_2_is_not(monkeypatch):
    args = parse_recipe(["--size", "nano", "--data", "x", "--bf16", "false"]).training
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3")
    with pytest.raises(ValueError, match="ZeRO-3"):
        refuse_setup(args, lora=False)
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    refuse_setup(args, lora=False)


@pytest.mark.parametrize("tower", ["true", "false"])
def test_an_average_of_an_encoder_that_only_adapters_change_is_refused(trainer_for, tower):
    with pytest.raises(ValueError, match="encoder's own weights, which lora_rank freezes"):
        trainer_for(lora_rank=2, lora_tower=tower, ema_decay=0.9)
    trainer_for(lora_rank=2, lora_tower=tower)
