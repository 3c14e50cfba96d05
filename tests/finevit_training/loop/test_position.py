"""A run that goes on has the curve of one that never stopped."""


def test_the_first_loss_after_a_resume_is_the_mean_of_as_many_steps(trainer_for, tmp_path):
    flags = {"max_steps": 6, "logging_steps": 3, "save_strategy": "steps", "save_steps": 1}
    whole = trainer_for(**flags)
    whole.train()
    expected = [(entry["step"], entry["loss"]) for entry in whole.state.log_history if "loss" in entry]
    assert [step for step, _ in expected] == [3, 6]
    for stopped in (3, 5):
        resumed = trainer_for(**flags)
        said = resumed.train(resume_from_checkpoint=str(tmp_path / f"out/checkpoint-{stopped}"))
        logged = [(entry["step"], entry["loss"]) for entry in resumed.state.log_history if "loss" in entry]
        assert logged == expected
        if stopped == 3:  # `train_loss` is of the steps of this start
            assert abs(said.training_loss - expected[1][1]) < 1e-6
