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
