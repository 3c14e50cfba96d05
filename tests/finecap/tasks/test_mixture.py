"""Mixtures and curricula: what holds when, and which are refused."""

import pytest

from finecap.tasks.mixture import DENSE_TASKS, NAMED_MIXTURES, check_mixture, mixture_at, named_mixture


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


def test_a_task_that_does_not_exist_is_refused_with_the_list_of_those_that_do():
    with pytest.raises(ValueError, match=r"'transcibe', which is no task.*box_to_text.*grounding.*transcribe"):
        check_mixture({"transcibe": 1, "docs": 0})


def test_an_empty_mixture_is_refused_and_says_how_to_ask_every_question():
    with pytest.raises(ValueError, match=r"empty.*'qa': 100"):
        check_mixture({})


def test_every_kind_that_the_corpus_asks_may_be_weighted(nano_corpus):
    import datasets

    records = datasets.load_dataset(str(nano_corpus), split="train").select_columns("qa")
    kinds = {item["kind"] for row in records for item in row["qa"]}
    assert len(kinds) > 3
    check_mixture(dict.fromkeys([*kinds, *DENSE_TASKS, "qa"], 1.0))


def test_a_mixture_may_be_given_by_its_name():
    assert named_mixture("paper") == NAMED_MIXTURES["paper"]
    assert sum(NAMED_MIXTURES["paper"].values()) == pytest.approx(100 / 12.2, abs=0.01)
    check_mixture(NAMED_MIXTURES["paper"])
    with pytest.raises(ValueError, match=r"'papers'.*one of the names paper"):
        named_mixture("papers")


@pytest.mark.parametrize("given", [[{"until": 1.0}], [{"until": 0.5, "mixture": {"qa": 1}}], {"papers": 1}, {}, []])
def test_what_is_no_mixture_and_no_curriculum_is_refused(given):
    with pytest.raises(ValueError, match=r"mixture|curriculum"):
        named_mixture(given)
