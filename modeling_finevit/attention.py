# Copyright 2026 The FineViT project. Licensed under the Apache License, Version 2.0.
"""Attention over packed sequences through Transformers' attention interface.

Shape suffixes: T packed patches, N sequences of a run, L their length, H heads, D head width.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.attention.varlen import varlen_attn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.utils import logging
from transformers.utils.generic import is_flash_attention_requested

from .configuration_finevit import FineViTConfig
from .layouts import AttentionLayout

logger = logging.get_logger(__name__)

NO_SINKS = "torch_varlen has no attention sinks, which this language model (gpt_oss, ...) needs: use `eager`."


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
    """Plain attention over `(N, H, L, D)`, the reference; returns `(N, L, H, D)` and the `(N, H, L, L)` weights."""
    weights = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = nn.functional.softmax(weights, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


def torch_varlen_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    cu_seq_lens_k: torch.Tensor | None = None,
    max_length_q: int | None = None,
    max_length_k: int | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """`torch_varlen`: PyTorch's own variable-length flash kernel, one call for the whole batch, no extra package.

    CUDA in float16 or bfloat16 with `cu_seq_lens_q` only. Everything else (a text model that was given this name too,
    other devices, float32) is answered by `sdpa`, so that `attn_implementation="torch_varlen"` is safe anywhere. A
    text model with padding-free arguments is causal, over grouped heads and sliding windows too.

    Args:
        query, key, value (`torch.FloatTensor`): `(1, H, T, D)` with sequences one behind the other; the heads of `key`
            and `value` may be fewer, by a whole factor.
        cu_seq_lens_q, cu_seq_lens_k (`torch.IntTensor` of shape `(num_sequences + 1,)`): their boundaries.
        max_length_q, max_length_k (`int`): length of the longest sequence.
        is_causal (`bool`, *optional*): by default what the module says.
        sliding_window (`int`, *optional*): how many positions back a query sees, itself included.

    Returns:
        `(1, T, H, D)`.

    Raises:
        ValueError: attention dropout or a soft cap, which the kernel does not have, or attention sinks, which neither
            the kernel nor `sdpa` has.
    """
    if kwargs.get("s_aux") is not None:
        raise ValueError(NO_SINKS)
    if cu_seq_lens_q is None or max_length_q is None or not has_varlen_kernel(query):
        more: dict[str, Any] = {"scaling": scaling, "is_causal": is_causal, **kwargs}
        return sdpa_attention_forward(module, query, key, value, attention_mask, **more)
    for option in ("dropout", "softcap"):
        if kwargs.get(option):
            raise ValueError(f"torch_varlen has no {option}; set it to 0 in the config or use `sdpa`.")
    causal = module.is_causal if is_causal is None else is_causal
    window = (sliding_window - 1 if sliding_window else -1, 0 if causal else -1)
    groups = query.shape[1] // key.shape[1]  # repeated, because PyTorch 2.11's kernel has no enable_gqa
    q_THD, k_THD, v_THD = (
        tensor[0].transpose(0, 1)
        for tensor in (query, key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1))
    )
    boundaries = (cu_seq_lens_q, cu_seq_lens_q if cu_seq_lens_k is None else cu_seq_lens_k)
    lengths = (max_length_q, max_length_q if max_length_k is None else max_length_k)
    out_THD: torch.Tensor = varlen_attn(q_THD, k_THD, v_THD, *boundaries, *lengths, scale=scaling, window_size=window)  # ty: ignore[invalid-assignment]
    return out_THD[None], None


def has_varlen_kernel(states: torch.Tensor) -> bool:
    """Whether `torch.nn.attention.varlen` runs for this device, dtype and head width (a multiple of 8)."""
    return states.is_cuda and states.dtype in (torch.float16, torch.bfloat16) and states.shape[-1] % 8 == 0


def attend_packed(
    attend: Callable,
    module: Any,
    q_THD: torch.Tensor,
    k_THD: torch.Tensor,
    v_THD: torch.Tensor,
    layout: AttentionLayout,
    **kwargs: Any,
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...] | None]:
    """Attention of each patch to the patches of its own sequence.

    Variable-length kernels and `flex_attention` take the whole batch in one call; the others go run by run.

    Returns:
        `(T, H, D)`, and for implementations that have them the weights: `(1, H, L, L)` for each image (or window).
    """
    if len(q_THD) == 0:
        return v_THD, None
    if not takes_packed(module.config, q_THD):
        attend = sdpa_attention_forward if layout.block_mask is not None else attend
        return attend_by_runs(attend, module, q_THD, k_THD, v_THD, layout, **kwargs)
    if layout.block_mask is None:
        kwargs |= {"cu_seq_lens_q": layout.cu_seqlens, "cu_seq_lens_k": layout.cu_seqlens}
        kwargs |= {"max_length_q": layout.max_seqlen, "max_length_k": layout.max_seqlen}
    packed = [tensor.transpose(0, 1)[None] for tensor in (q_THD, k_THD, v_THD)]
    out_1THD, _ = attend(module, *packed, attention_mask=layout.block_mask, is_causal=False, **kwargs)
    return out_1THD[0], None


def takes_packed(config: FineViTConfig, states: torch.Tensor) -> bool:
    """Whether the configured implementation takes a whole ragged batch of such states `(T, H, D)` in one call."""
    if config._attn_implementation == "torch_varlen":
        return has_varlen_kernel(states)
    if config._attn_implementation == "flex_attention":
        needs_backward_on_cpu = not states.is_cuda and states.requires_grad and torch.is_grad_enabled()
        if needs_backward_on_cpu:
            logger.warning_once("flex_attention has no backward on the CPU; training there uses its equal, sdpa.")
        return not needs_backward_on_cpu
    return is_flash_attention_requested(config)


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
    splits = zip(layout.runs, *(tensor.split(sizes) for tensor in (q_THD, k_THD, v_THD)), strict=True)
    outputs, weights = [], []
    for run, *qkv_THD in splits:
        qkv_NHLD = [tensor.unflatten(0, run).transpose(1, 2) for tensor in qkv_THD]
        out_NLHD, weights_NHLL = attend(module, *qkv_NHLD, attention_mask=None, is_causal=False, **kwargs)
        outputs.append(out_NLHD.flatten(0, 1))
        if weights_NHLL is not None:
            weights.extend(weights_NHLL.split(1))
    out_THD = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    return out_THD, tuple(weights[rank] for rank in layout.ranks) if weights else None
