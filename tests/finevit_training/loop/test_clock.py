"""The schedule begins after the projector's warm-up; checkpoints by the clock."""

import math
from pathlib import Path

import pytest

from finevit_training.loop.clock import Progress, rate_factor

STEPS, ALONE, WARMUP = 1000, 500, 15


def cosine(total):
    def base(step):
        if step < WARMUP:
            return step / WARMUP
        return 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / (total - WARMUP)))

    return base


def test_the_schedule_of_all_parts_begins_after_the_projectors_warmup():
    factors = {
        alone: rate_factor(cosine(STEPS - ALONE), alone, ALONE, Progress(STEPS), by_clock=False)
        for alone in (True, False)
    }
    assert [factors[True](step) for step in (0, ALONE - 1)] == [1.0, 1.0]
    assert [factors[False](step) for step in (0, ALONE - 1)] == [0.0, 0.0]
    for factor in factors.values():
        rates = [factor(step) for step in range(ALONE, STEPS + 1)]
        assert rates[0] == 0.0
        assert rates[1] == pytest.approx(1 / WARMUP)  # no jump to the middle of the cosine
        assert max(rates) == rates[WARMUP] == 1.0
        assert rates[-1] == pytest.approx(0.0, abs=1e-9)


def test_a_real_run_warms_up_after_the_projector_and_its_other_parts_rest_until_then(trainer_for):
    flags = {"projector_warmup_steps": 2, "max_steps": 6, "warmup_steps": 2, "projector_learning_rate": 2e-3}
    trainer = trainer_for(**flags)
    trainer.train()
    log = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["learning_rate_projector"] for entry in log][:3] == pytest.approx([2e-3, 2e-3, 0])
    assert [entry["learning_rate"] for entry in log][:5] == pytest.approx([0, 0, 0, 5e-4, 1e-3])
    assert [entry["learning_rate_tower"] for entry in log] == [entry["learning_rate"] for entry in log]
    states = {id(p): int(state["step"]) for p, state in trainer.optimizer.state.items()}
    groups = trainer.optimizer.param_groups
    steps = {group["name"]: {states[id(p)] for p in group["params"]} for group in groups}
    assert steps == {"projector": {6}, "tower": {4}, "llm": {4}}


def test_checkpoints_are_written_by_the_clock(trainer_for):
    trainer = trainer_for(max_steps=3, save_minutes=1e-6)
    trainer.train()
    names = {path.name for path in Path(trainer.args.output_dir).glob("checkpoint-*")}
    assert names == {"checkpoint-1", "checkpoint-2", "checkpoint-3"}
