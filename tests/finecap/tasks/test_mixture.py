"""Mixtures and curricula: what holds when, and which are refused."""

import pytest

from finecap.tasks.mixture import check_mixture, mixture_at


def test_curriculum_gives_each_part_of_the_run_its_mixture():
    stages = [{"until": 0.5, "mixture": {"transcribe": 1}}, {"until": 1.0, "mixture": {"qa": 1}}]
    assert mixture_at(stages, 0.0) == {"transcribe": 1}
    assert mixture_at(stages, 0.5) == {"transcribe": 1}
    assert mixture_at(stages, 0.51) == {"qa": 1}
    assert mixture_at(stages, 1.0) == {"qa": 1}
    with pytest.raises(ValueError, match=r"last one 1\.0"):
        mixture_at(stages[:1], 0.1)


@pytest.mark.parametrize("weight", [-1, float("nan"), "much"])
def test_a_weight_that_is_no_number_of_turns_is_refused(weight):
    with pytest.raises(ValueError, match="transcribe"):
        check_mixture({"transcribe": weight})
