"""Which checkpoints stay: as many as save_total_limit says, the best one, and whatever is the user's own."""

import os

import pytest


def made(folder, age):
    folder.mkdir(parents=True)
    os.utime(folder, (1e9 - age, 1e9 - age))


@pytest.mark.slow
@pytest.mark.parametrize("best", [False, True])
def test_only_numbered_checkpoints_of_the_run_are_counted_and_removed(trainer_for, tmp_path, best):
    out = tmp_path / "checkpoint-7" / "out"  # a name that transformers' own pattern would find in every path
    made(out / "checkpoint-best", age=100)
    made(out / "checkpoint-900", age=50)  # of a former, longer run
    flags = {"output_dir": out, "max_steps": 4, "save_strategy": "steps", "save_steps": 1, "save_total_limit": 2}
    if best:
        flags |= {"eval_strategy": "steps", "eval_steps": 1, "eval_split": "train", "eval_records": 4}
        flags |= {"load_best_model_at_end": True, "learning_rate": 0.1}  # so that the first step is the best
    trainer = trainer_for(**flags)
    trainer.train()
    kept = {path.name for path in out.glob("checkpoint-*")}
    first = {"checkpoint-1"} if best else {"checkpoint-3"}
    assert kept == {"checkpoint-best", "checkpoint-4"} | first
    if best:
        assert trainer.state.best_global_step == 1
