"""A run that counts epochs."""

import pytest

from finevit_training.data.order import RoundKey


def test_a_run_of_one_and_a_half_epochs_is_two_thirds_through_after_the_first(trainer_for):
    trainer = trainer_for(max_steps=-1, num_train_epochs=1.5)
    assert trainer.loader.fraction(RoundKey(0, 0), 0) == 0
    assert trainer.loader.fraction(RoundKey(1, 0), 0) == pytest.approx(2 / 3)
    assert trainer.loader.fraction(RoundKey(2, 0), 0) == 1
