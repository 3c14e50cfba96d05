"""A misspelt name is answered with the one that was meant, and nothing else is guessed."""

import pytest

from finecap.nearest import did_you_mean
from finecap.recipe_files import shipped_recipes


@pytest.mark.parametrize("given", ["sft/nanocpu", "nano_cpu", "sft/nano-cpu", "stf/nano_cpu"])
def test_a_misspelt_recipe_is_found(given):
    assert did_you_mean(given, shipped_recipes("finevit_training")) == "; did you mean sft/nano_cpu?"


def test_of_several_words_each_gets_its_own_and_values_between_them_none():
    known = ["--learning_rate", "--max_steps", "--seed"]
    assert did_you_mean(["--lerning_rate", "1", "--max_step", "7"], known) == (
        "; did you mean --learning_rate, --max_steps?"
    )


@pytest.mark.parametrize("given", ["", "frog", "vision_learning_rate_of_the_tower"])
def test_nothing_is_guessed_for_what_is_like_nothing(given):
    assert did_you_mean(given, ["learning_rate", "max_steps"]) == ""
