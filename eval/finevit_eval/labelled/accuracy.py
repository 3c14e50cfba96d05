"""Accuracy of a classifier from its scores, exact under ties.

Shape suffixes: N pictures, C classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from finevit_eval.labelled.pictures_by_class import LabelledPicture
from finevit_eval.result import Outcome

TOP = 5


class ClassRanks(NamedTuple):
    """For each picture: how many classes score above its own, how many others score alike, and the class that scores
    most; each `(N,)`, int64.
    """

    above: torch.Tensor
    equal: torch.Tensor
    best: torch.Tensor

    def hits(self, k: int) -> torch.Tensor:
        """The chance that the right class is among the first `k` when equals stand in random order; `(N,)`, float64.
        A model to which everything is alike gets k / C.
        """
        return ((k - self.above.double()) / (self.equal.double() + 1)).clamp(0, 1)


def class_ranks(scores_NC: torch.Tensor, labels_N: torch.Tensor, tie: float) -> ClassRanks:
    """Args:
        scores_NC: What a classifier gives each class.
        labels_N: int64, the right classes.
        tie: Scores that are nearer than this are alike.

    Raises:
        ValueError: a score is no number, which would be as good as any other.
    """
    if broken := int((~scores_NC.isfinite().all(dim=1)).sum()):
        raise ValueError(f"The scores of {broken} of {len(scores_NC)} pictures are no numbers.")
    apart_NC = scores_NC - scores_NC.gather(1, labels_N[:, None])
    equal_N = (apart_NC.abs() <= tie).sum(dim=1) - 1
    return ClassRanks((apart_NC > tie).sum(dim=1).cpu(), equal_N.cpu(), scores_NC.argmax(dim=1).cpu())


def mean_per_class(hits_N: torch.Tensor, labels_N: torch.Tensor) -> float:
    """Mean over the classes that have pictures of the mean over their pictures."""
    counts_C = labels_N.bincount().double()
    sums_C = torch.zeros_like(counts_C).index_add(0, labels_N, hits_N)
    return float((sums_C / counts_C)[counts_C > 0].mean())


def accuracy(
    ranks: ClassRanks,
    pictures: Sequence[LabelledPicture],
    names: Sequence[str],
    others: Mapping[str, float],
    controls: Mapping[str, float],
    facts: Mapping[str, Any],
) -> Outcome:
    """The outcome of a classification: acc@1, with acc@5 and the mean over classes beside it.

    Args:
        pictures: In the order of the ranks.
        names: Of the classes, for people.
        others, controls, facts: As of an `Outcome`.
    """
    hits_N = ranks.hits(1)
    labels_N = torch.tensor([picture.label for picture in pictures])
    samples = [
        {
            "id": picture.id,
            "group": picture.id,
            "truth": names[picture.label],
            "prediction": names[int(ranks.best[row])],
            "rank": int(ranks.above[row]) + 1,
            "equal": int(ranks.equal[row]),
            "score": float(hits_N[row]),
        }
        for row, picture in enumerate(pictures)
    ]
    top = {f"acc@{TOP}": float(ranks.hits(TOP).mean())} if len(names) > TOP else {}
    spread = {"mean_per_class": mean_per_class(hits_N, labels_N)}
    scores = top | spread | dict(others)
    return Outcome(
        float(hits_N.mean()),
        samples,
        scores,
        controls,
        facts=facts,
        pictures=lambda ids: ((picture.id, picture.read()) for picture in pictures if picture.id in ids),
    )
