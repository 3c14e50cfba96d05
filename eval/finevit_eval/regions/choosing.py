"""Which of several texts a box is most similar to."""

import torch

from finevit_eval.retrieval.ranks import TIE


def right_share(cosines_NC: torch.Tensor, right_N: torch.Tensor) -> torch.Tensor:
    """The chance that each row's own column is taken, if of equally similar columns one is drawn: a model to which
    everything is alike gets 1 / C, not 1. `(N,)` float64 on the CPU.

    Args:
        cosines_NC: Similarity of N boxes and C texts; -inf where a row has fewer texts.
        right_N: The right column of each row.
    """
    own_N1 = cosines_NC.gather(1, right_N[:, None])
    above_N = (cosines_NC > own_N1 + TIE).any(dim=1)
    equal_N = ((cosines_NC - own_N1).abs() <= TIE).sum(dim=1)
    return ((~above_N).double() / equal_N).cpu()
