# Copyright 2026 The FineViT project. Licensed under the Apache License, Version 2.0.
"""Gradient caching (Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup"): a
contrastive step over more pairs than the towers' activations fit for.

Embeddings are made chunk by chunk without a graph, the loss over all of them gives their gradients, and a second pass
sends those back chunk by chunk. Memory holds one chunk's activations; the gradients are those of the plain step.
"""

import contextlib
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import torch

Tensors = Sequence[torch.Tensor]


def cached_backward(
    encode: Callable[[Mapping[str, Any]], tuple[Tensors, Tensors]],
    chunks: Sequence[Mapping[str, Any]],
    loss_of: Callable[[Tensors, Tensors], torch.Tensor],
    backward: Callable[[torch.Tensor], Any] = torch.Tensor.backward,
    without_sync: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
) -> torch.Tensor:
    """One step's loss, with its gradients added to all parameters.

    Args:
        encode: the model, wrapped by DDP or FSDP or not: the inputs of a chunk to its embeddings, `(rows, channels)`
            each, and to what else the loss depends on and is the same for all chunks (scale and bias).
        chunks: the step's inputs.
        loss_of: the embeddings of all chunks, one behind the other, and those others to the loss.
        backward: as `accelerator.backward`.
        without_sync: DDP's `no_sync`, in which all chunks but the last are sent back: ranks exchange gradients once.

    Returns:
        The loss, `()`, detached.
    """
    randomness, parts = [], []
    with torch.no_grad():
        for chunk in chunks:
            randomness.append(_random_state())
            embeds, others = encode(chunk)
            parts.append(embeds)
    torch.clear_autocast_cache()  # whose casts of the weights would know no gradient in the second pass
    embeds = [torch.cat(columns).requires_grad_() for columns in zip(*parts, strict=True)]
    others = [other.detach().requires_grad_() for other in others]
    loss = loss_of(embeds, others)
    gradients = torch.autograd.grad(loss, [*embeds, *others])
    of_embeds, of_others = gradients[: len(embeds)], gradients[len(embeds) :]
    lengths = [[len(rows) for rows in column] for column in zip(*parts, strict=True)]
    per_chunk = zip(*(gradient.split(own) for gradient, own in zip(of_embeds, lengths, strict=True)), strict=True)
    for number, (chunk, state, chunk_gradients) in enumerate(zip(chunks, randomness, per_chunk, strict=True), start=1):
        last = number == len(chunks)
        with contextlib.nullcontext() if last else without_sync(), _replayed(state):
            embeds, others = encode(chunk)
            # Products whose derivatives are the loss's; those of the others count once.
            factors = of_others if last else [torch.zeros_like(gradient) for gradient in of_others]
            backward(_product([*embeds, *others], [*chunk_gradients, *factors]))
    return loss.detach()


def _product(tensors: Tensors, gradients: Tensors) -> torch.Tensor:
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


__all__ = ["Tensors", "cached_backward"]
