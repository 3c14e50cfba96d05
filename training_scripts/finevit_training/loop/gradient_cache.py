"""Gradient caching (Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup"): a
contrastive step over more pairs than the towers' activations fit for.

Embeddings are made chunk by chunk without a graph, the loss over all of them gives their gradients, and a second pass
sends those back chunk by chunk. Memory holds one chunk's activations; the gradients are those of the plain step.
"""

import contextlib
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

Embeds = tuple[torch.Tensor, ...]
LossOf = Callable[[Embeds], torch.Tensor]


def cached_backward(
    encode: Callable[[Mapping[str, Any]], Embeds],
    chunks: Sequence[Mapping[str, Any]],
    loss_of: LossOf,
    loss_parameters: Sequence[nn.Parameter],
    backward: Callable[[torch.Tensor], Any] = torch.Tensor.backward,
    without_sync: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
) -> torch.Tensor:
    """One step's loss, with its gradients added to all parameters.

    Args:
        encode: the model, wrapped by DDP or not: the inputs of a chunk to its embeddings, `(pairs, channels)` each.
        chunks: the step's inputs.
        loss_of: the embeddings of all chunks, one behind the other, to the loss.
        loss_parameters: what else the loss depends on (scale and bias).
        backward: as `accelerator.backward`.
        without_sync: DDP's `no_sync`, in which all chunks but the last are sent back: ranks exchange gradients once.

    Returns:
        The loss, `()`, detached.
    """
    randomness, parts = [], []
    with torch.no_grad():
        for chunk in chunks:
            randomness.append(_random_state())
            parts.append(encode(chunk))
    embeds = tuple(torch.cat(columns).requires_grad_() for columns in zip(*parts, strict=True))
    loss = loss_of(embeds)
    gradients = torch.autograd.grad(loss, [*embeds, *loss_parameters])
    of_embeds, of_parameters = gradients[: len(embeds)], gradients[len(embeds) :]
    per_chunk = zip(*(gradient.split([len(part[0]) for part in parts]) for gradient in of_embeds), strict=True)
    for number, (chunk, state, chunk_gradients) in enumerate(zip(chunks, randomness, per_chunk, strict=True), start=1):
        last = number == len(chunks)
        with contextlib.nullcontext() if last else without_sync(), _replayed(state):
            # Products whose derivatives are the loss's; that of its own parameters where ranks exchange.
            tensors = [*encode(chunk), *(loss_parameters if last else ())]
            backward(_product(tensors, [*chunk_gradients, *(of_parameters if last else ())]))
    return loss.detach()


def _product(tensors: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor]) -> torch.Tensor:
    return sum(
        ((tensor * gradient).sum() for tensor, gradient in zip(tensors, gradients, strict=True)),
        start=torch.zeros(()),
    )


def _random_state() -> list[torch.Tensor]:
    """The states of the generators that dropout draws from."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state()] if torch.cuda.is_available() else [])]


@contextlib.contextmanager
def _replayed(state: list[torch.Tensor]) -> Generator[None]:
    """The generators as they were, so that dropout drops the same; afterwards they go on where they are now."""
    now = _random_state()
    _restore(state)
    try:
        yield
    finally:
        _restore(now)


def _restore(state: list[torch.Tensor]) -> None:
    torch.set_rng_state(state[0])
    for of_device in state[1:]:
        torch.cuda.set_rng_state(of_device)
