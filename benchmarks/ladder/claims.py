"""The paper's eight claims, what is compared for each, and the rule that says what became of it.

The rule was fixed before the first run. Figures of the paper (arXiv 2603.17326) are second hand; where no figure of
its own was found, that is said.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import mean, stdev
from typing import Any, NamedTuple

REPRODUCED, NOT_REPRODUCED, TOO_SMALL = "reproduced", "not reproduced", "too small to tell"
NO_EFFECT = 0.01  # a difference that is surely smaller than a percentage point is none
FEWEST_SEEDS_FOR_NONE = 3
Tasks = Mapping[str, Mapping[str, Any]]  # evaluation -> its entry, with "score" from 0 to 1


class Comparison(NamedTuple):
    """Two runs by one score; the claim is that the first has more of it."""

    more: str
    less: str
    score: str


class Claim(NamedTuple):
    """A claim of the paper.

    Attributes:
        number: its place in the ladder; (a), (b) where it has several sides.
        paper: the paper's own figures.
    """

    number: str
    text: str
    compared: Comparison
    paper: str


class Verdict(NamedTuple):
    """The mean difference over seeds, two standard errors of it (None of one seed), and what follows."""

    difference: float
    two_errors: float | None
    word: str


CLAIMS = (
    Claim(
        "1a",
        "stage I helps stage II, at equal samples of stage II",
        Comparison("II_after_I", "II", "dense"),
        "says so; no figure found",
    ),
    Claim(
        "1b",
        "stage I helps stage II, at equal FLOPs of both",
        Comparison("II_after_I", "II_equal_flops", "dense"),
        "says nothing of it",
    ),
    Claim(
        "2",
        "stage II helps general tasks",
        Comparison("sft_II_after_I", "sft_I", "general"),
        "general 57.12 → 64.80 (Table 8)",
    ),
    Claim(
        "3",
        "stage II does not help locating",
        Comparison("sft_I", "sft_II_after_I", "grounding"),
        "RefCOCO 66.47 → 63.18, local 48.04 → 48.57 (Table 8)",
    ),
    Claim(
        "4a",
        "stage III helps general tasks",
        Comparison("sft_III_encoder", "sft_II_after_I", "general"),
        "general 64.80 → 73.29 (Table 8)",
    ),
    Claim(
        "4b",
        "stage III helps local tasks",
        Comparison("sft_III_encoder", "sft_II_after_I", "local"),
        "local 48.57 → 70.33 (Table 8)",
    ),
    Claim(
        "5a",
        "an encoder that learns in stage III helps local tasks",
        Comparison("sft_III", "sft_III_frozen", "local"),
        "most for RefCOCO and ChartQA (Fig. 5); no figure found",
    ),
    Claim(
        "5b",
        "it helps local tasks more than general ones",
        Comparison("sft_III", "sft_III_frozen", "local over general"),
        "general tasks do well frozen (Fig. 5); no figure found",
    ),
    Claim(
        "6a",
        "dense training text helps long queries",
        Comparison("II_dense", "II_short", "dense"),
        "DCI T2I 84.8, I2T 83.4; SigLIP2-so400m 66.8, 66.9 (Table 5)",
    ),
    Claim(
        "6b",
        "and costs short queries (CLIPS' finding, not the paper's)",
        Comparison("II_short", "II_dense", "short"),
        "COCO T2I 60.7, SigLIP2-so400m 55.8 (Table 5): no loss there",
    ),
    Claim(
        "7",
        "more tokens of text help long queries that tell pictures apart late",
        Comparison("II_after_I", "II_few_tokens", "dense"),
        "64 → 256 tokens; Urban-1k T2I 99.1, SigLIP2-so400m 75.6 (Table 5)",
    ),
    Claim(
        "8",
        "native resolution beats squares in reading pages",
        Comparison("pages_native", "pages_square", "documents"),
        "DocVQA +18.52, InfoVQA +13.68 over SigLIP2-NaFlex under Qwen3-1.7B",
    ),
)


def _mean_of(*names: str) -> Callable[[Tasks], float]:
    return lambda tasks: mean(tasks[name]["score"] for name in names)


SCORES: dict[str, Callable[[Tasks], float]] = {
    "general": _mean_of("doc", "easyvqa"),
    "local": _mean_of("grounding", "chart"),
    "grounding": _mean_of("grounding"),
    "documents": _mean_of("doc"),
    "dense": _mean_of("t2i_dense", "i2t_dense"),
    "short": _mean_of("t2i_short", "i2t_short"),
}
SCORES["local over general"] = lambda tasks: SCORES["local"](tasks) - SCORES["general"](tasks)


def judge(differences: Sequence[float]) -> Verdict:
    """What the differences of the seeds (scores from 0 to 1) say of a claim.

    "reproduced": their mean is above two standard errors of it. "not reproduced": it is below minus two, or with three
    seeds and more |mean| and two standard errors together stay below a percentage point. All else, and a single seed,
    is "too small to tell".

    Raises:
        ValueError: there are none, or one is not a number.
    """
    if not differences or not all(map(math.isfinite, differences)):
        raise ValueError(f"the differences are {list(differences)}; expected one number of each seed")
    difference = mean(differences)
    if len(differences) == 1:
        return Verdict(difference, None, TOO_SMALL)
    two_errors = 2 * stdev(differences) / math.sqrt(len(differences))
    if difference > two_errors:
        return Verdict(difference, two_errors, REPRODUCED)
    surely_none = len(differences) >= FEWEST_SEEDS_FOR_NONE and abs(difference) + two_errors < NO_EFFECT
    word = NOT_REPRODUCED if difference < -two_errors or surely_none else TOO_SMALL
    return Verdict(difference, two_errors, word)


def sides(claim: Claim, seeds: Sequence[Mapping[str, Tasks]]) -> list[tuple[float, float]]:
    """The score of both runs of a claim, for each seed that has both.

    Args:
        seeds: run -> its scores, of each seed.
    """
    more, less, score = claim.compared
    return [
        (SCORES[score](tasks[more]), SCORES[score](tasks[less])) for tasks in seeds if more in tasks and less in tasks
    ]
