# Copyright 2026 The FineViT project. Licensed under the Apache License, Version 2.0.
"""Which positions a loss covers, and the loss that keeps experts equally busy."""

from typing import Any

import torch
from torch.nn import functional as F

# Mixtral's is the one that every mixture-of-experts family of transformers copies.
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

IGNORE_INDEX = -100
"""The label of a position without loss, PyTorch's default."""


def supervised_positions(labels: torch.Tensor) -> torch.Tensor:
    """`(batch, length)` mask of the positions whose next token has a label: the cheap `logits_to_keep` in training."""
    return F.pad(labels[:, 1:] != IGNORE_INDEX, (0, 1), value=False)


def slice_positions(values: torch.Tensor, logits_to_keep: int | torch.Tensor) -> torch.Tensor:
    """Slice `(batch, length, ...)` as transformers 5.23's `slice_logits_to_keep`, which 5.17 does not have.

    Args:
        values: `(batch, length, ...)`.
        logits_to_keep: the last n positions (0: all), indices `(n,)` or `(batch, n)`, or a boolean mask
            `(batch, length)`. The mask `supervised_positions(labels)` keeps every position that has a loss.

    Returns:
        `(batch, kept, ...)`; for a mask `(kept, ...)`.
    """
    if isinstance(logits_to_keep, int):
        return values[:, -logits_to_keep:] if logits_to_keep else values
    if logits_to_keep.dtype == torch.bool:
        return values[logits_to_keep]
    if logits_to_keep.ndim == 2:
        rows = torch.arange(values.shape[0], device=values.device)[:, None]
        return values[rows, logits_to_keep]
    return values[:, logits_to_keep]


def load_balancing_loss(router_logits: Any, text_config: Any, attention_mask: Any = None) -> torch.Tensor:
    """The load-balancing loss of Switch Transformers (arXiv 2101.03961), not yet weighted.

    Args:
        router_logits: a tuple with `(batch * length, num_experts)` for each layer with experts.
        text_config: the language model's config.
        attention_mask: `(batch, length)`, to leave padding out; masks of any other shape leave nothing out.

    Returns:
        A tensor of shape `()`.

    Raises:
        ValueError: the language model gave no router logits, because it has no experts.
    """
    if not router_logits:
        raise ValueError(
            f"output_router_logits=True, but the language model ({text_config.model_type}) has no experts: leave it."
        )
    padding = attention_mask if isinstance(attention_mask, torch.Tensor) and attention_mask.ndim == 2 else None
    loss: Any = load_balancing_loss_func(
        router_logits, text_config.num_experts, text_config.num_experts_per_tok, padding
    )
    return loss
