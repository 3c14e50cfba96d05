"""Nothing keeps its own."""

import pytest

from finevit_eval.regions.mixing import another_of_each


@pytest.mark.parametrize("number", [2, 3, 10, 101])
def test_each_gets_another_one_and_none_is_lost(number):
    others = another_of_each(number)
    assert sorted(others) == list(range(number))
    assert all(place != other for place, other in enumerate(others))
    assert others == another_of_each(number)


def test_one_alone_gets_itself():
    assert another_of_each(1) == [0]


def test_data_that_repeat_are_mixed_as_well():
    same = [place % 3 == other % 3 for place, other in enumerate(another_of_each(300))]
    assert 0.2 < sum(same) / 300 < 0.5
