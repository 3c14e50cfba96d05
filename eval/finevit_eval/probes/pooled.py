"""Probes on one vector of each picture: nearest neighbours and logistic regression, both scikit-learn's.

Shape suffixes: N pictures to learn from, M to judge, C classes, D width of the features.
"""

import warnings

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier

NEIGHBOURS, TEMPERATURE = 20, 0.07
"""DINO's `eval_knn.py` (Caron et al. 2021): 20 "is usually working the best", votes weighed by exp(cosine / 0.07)."""
INVERSE_PENALTIES = tuple(10.0**power for power in range(-6, 7, 2))
"""Where CLIP's search for the strength of L2 begins (Radford et al. 2021, appendix A.3); it goes on in steps of 10."""
ITERATIONS = 1000
"""Of L-BFGS, CLIP's."""
HELD_OUT = 5
"""One of so many pictures of each class is held out to choose the penalty."""


def knn_scores(train_ND: torch.Tensor, labels_N: torch.Tensor, test_MD: torch.Tensor, classes: int) -> torch.Tensor:
    """`(M, C)` float64: shares of the weighed votes of the nearest pictures; of all where there are fewer than 20.

    Args:
        train_ND, test_MD: float32, each row of norm 1.
    """
    neighbours = KNeighborsClassifier(
        n_neighbors=min(NEIGHBOURS, len(train_ND)), weights=_votes, algorithm="brute", metric="sqeuclidean"
    )
    neighbours.fit(train_ND.numpy(), labels_N.numpy())
    shares = np.asarray(neighbours.predict_proba(test_MD.numpy()))
    return _by_class(shares, np.asarray(neighbours.classes_), classes, missing=0.0)


def _votes(squares: np.ndarray) -> np.ndarray:
    """Of squared distances between vectors of norm 1, which are 2 - 2 cos."""
    return np.exp((1 - squares / 2) / TEMPERATURE)


def choose_penalty(train_ND: torch.Tensor, labels_N: torch.Tensor, seed: int) -> float:
    """scikit-learn's C that does best on pictures held out of training.

    Raises:
        ValueError: no class has as many pictures as one needs to hold some out.
    """
    if int(labels_N.bincount().max()) < HELD_OUT:
        raise ValueError(f"A linear probe needs {HELD_OUT} pictures of a class in the train split; take more.")
    folds = StratifiedKFold(HELD_OUT, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that a class has fewer
        learnt, held = next(folds.split(train_ND, labels_N))
    found: dict[float, float] = {}

    def score(penalty: float) -> float:
        if penalty not in found:
            model = _fitted(train_ND[learnt], labels_N[learnt], penalty)
            found[penalty] = float(model.score(train_ND[held].numpy(), labels_N[held].numpy()))
        return found[penalty]

    best = max(INVERSE_PENALTIES, key=score)
    return max((best, best / 10, best * 10), key=score)


def linear_scores(
    train_ND: torch.Tensor, labels_N: torch.Tensor, test_MD: torch.Tensor, classes: int, penalty: float
) -> torch.Tensor:
    """`(M, C)` float64: logits of a logistic regression.

    Args:
        penalty: scikit-learn's C, see `choose_penalty`.
    """
    model = _fitted(train_ND, labels_N, penalty)
    logits = model.decision_function(test_MD.numpy())
    if logits.ndim == 1:  # of two classes
        logits = np.stack([np.zeros_like(logits), logits], axis=1)
    return _by_class(logits, model.classes_, classes, missing=float(logits.min()) - 1)


def _fitted(train_ND: torch.Tensor, labels_N: torch.Tensor, penalty: float) -> LogisticRegression:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # as CLIP's: so many steps, and no more
        return LogisticRegression(C=penalty, max_iter=ITERATIONS).fit(train_ND.numpy(), labels_N.numpy())


def _by_class(scores: np.ndarray, seen: np.ndarray, classes: int, missing: float) -> torch.Tensor:
    """Scores of the classes that there were pictures of to learn from, among those of all."""
    whole_MC = np.full((len(scores), classes), missing)
    whole_MC[:, seen] = scores
    return torch.from_numpy(whole_MC)
