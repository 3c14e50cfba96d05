# Copyright 2026 The FineViT project. Licensed under the Apache License, Version 2.0.
"""Attention over packed sequences through Transformers' attention interface.

Shape suffixes: T packed patches, N sequences of a run, L their length, H heads, D head width.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from .geometry import AttentionLayout


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Plain attention over `(N, H, L, D)`, the reference; returns `(N, L, H, D)` and `(N, H, L, L)` weights."""
    weights = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = nn.functional.softmax(weights, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


@torch.compiler.disable
def attend_by_runs(
    attend: Callable,
    module: nn.Module,
    q_THD: torch.Tensor,
    k_THD: torch.Tensor,
    v_THD: torch.Tensor,
    layout: AttentionLayout,
    **kwargs: Any,
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...] | None]:
    """One batched call for each run of equally long sequences; no padding and no mask.

    Outside of the compiled graph, because the lengths are data: inside, every new mix of sizes would recompile.
    """
    sizes = [count * length for count, length in layout.runs]
    outputs, weights = [], []
    for (count, length), q, k, v in zip(
        layout.runs, q_THD.split(sizes), k_THD.split(sizes), v_THD.split(sizes), strict=True
    ):
        batched = [tensor.unflatten(0, (count, length)).transpose(1, 2) for tensor in (q, k, v)]
        out_NLHD, weights_NHLL = attend(module, *batched, attention_mask=None, is_causal=False, **kwargs)
        outputs.append(out_NLHD.flatten(0, 1))
        if weights_NHLL is not None:
            weights.extend(weights_NHLL.split(1))
    out_THD = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    return out_THD, tuple(weights[rank] for rank in layout.ranks) if weights else None


__all__ = ["attend_by_runs", "eager_attention_forward", "sdpa_attention_forward"]
