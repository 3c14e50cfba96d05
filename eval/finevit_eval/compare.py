"""Two models over the same samples: is one better, and by how much?"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from finevit_eval.resampling import Difference, holm, paired_difference
from finevit_eval.result import ALIKE, check_data, check_settings, is_mean, load_results, load_samples

MEASURED_ALIKE = ("prompt", "generation_kwargs")
"""What two runs must share of an evaluation, besides its data."""


class Comparison(NamedTuple):
    """One evaluation of two runs.

    Attributes:
        name, metric, n: Of the evaluation; n samples.
        first, second: Their scores, 0-1.
        difference: Of the second from the first.
        corrected_p: By Holm's method for all evaluations that were compared.
    """

    name: str
    metric: str
    n: int
    first: float
    second: float
    difference: Difference
    corrected_p: float


def compare(first: Path, second: Path, seed: int = 0) -> list[Comparison]:
    """Test each evaluation that two runs share, paired by sample.

    Args:
        first, second: Folders of results.
        seed: Of the resampling.

    Raises:
        ValueError: A folder holds no results; the runs share no evaluation, or differ in data or settings; a score is
            no mean of its samples, for which no paired test is known here.
    """
    mine, other = load_results(first), load_results(second)
    names = [name for name in mine["tasks"] if name in other["tasks"]]
    if not names:
        raise ValueError(
            f"{first} holds {', '.join(mine['tasks'])}, {second} {', '.join(other['tasks'])}; expected the same "
            "evaluations in both."
        )
    check_settings(mine, other, (*ALIKE, "blind"), ("first", "second"))
    check_data(mine, other, names, ("first", "second"))
    facts = [run["receipt"]["tasks"] for run in (mine, other)]
    for name in names:
        _check_facts(name, facts[0][name], facts[1][name])
    pairs = [_scores(name, first, second, mine, other) for name in names]
    found = [paired_difference(*pair, seed=seed) for pair in pairs]
    return [
        Comparison(
            name,
            mine["tasks"][name]["metric"],
            mine["tasks"][name]["n"],
            mine["tasks"][name]["score"],
            other["tasks"][name]["score"],
            difference,
            corrected,
        )
        for name, difference, corrected in zip(names, found, holm([one.p for one in found]), strict=True)
    ]


def as_text(comparisons: list[Comparison]) -> str:
    """One line for each evaluation under a header."""
    lines = [f"{'':<22} {'n':>6} {'first':>7} {'second':>7} {'change':>8}  {'95 %':<19} {'p':>7} {'Holm':>7}"]
    for one in comparisons:
        mean, low, high, p = one.difference
        scores = f"{one.n:>6} {one.first:>7.4f} {one.second:>7.4f} {mean:>+8.4f}  {f'{low:+.4f} to {high:+.4f}':<19}"
        lines.append(f"{one.name:<22} {scores} {p:>7.4f} {one.corrected_p:>7.4f}")
    return "\n".join(lines)


def _check_facts(name: str, mine: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    for key in MEASURED_ALIKE:
        if mine.get(key) != other.get(key):
            raise ValueError(
                f"The runs measured {name} with another {key.replace('_', ' ')} ({mine.get(key)!r} and "
                f"{other.get(key)!r}); measure both alike."
            )


def _scores(
    name: str, first: Path, second: Path, mine: Mapping[str, Any], other: Mapping[str, Any]
) -> tuple[list[float], list[float], list[str]]:
    """Scores of both and groups, in one order of the samples."""
    one, two = load_samples(first, name), load_samples(second, name)
    for run, samples in ((mine, one), (other, two)):
        if not is_mean(run["tasks"][name]["score"], samples):
            raise ValueError(f"{name} is no mean of its samples' scores, which alone can be compared in pairs.")
    by_id = {sample["id"]: sample["score"] for sample in two}
    if len(by_id) != len(two) or {sample["id"] for sample in one} != set(by_id) or len(one) != len(two):
        raise ValueError(f"The samples of {name} in {first} and {second} are not the same; run both again.")
    scores = [sample["score"] for sample in one], [by_id[sample["id"]] for sample in one]
    return *scores, [sample["group"] for sample in one]
