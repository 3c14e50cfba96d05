# Copyright 2026 The FineViT project. Licensed under the Apache License, Version 2.0.
"""Attention of a language model over packed rows, through transformers' attention interface.

The layers of a language model find their attention by the name in its config. `forward_in_segments` puts `packed_sdpa`
in the place of `sdpa`, and so on. Under such a name a call with a `packed_layout` stays within its segments, and every
other call is answered by the implementation whose name follows. The layout travels as an argument of the layers, so
that gradient checkpointing computes again what it computed before.

Shape suffixes: R rows, L their length, T = R·L tokens, H heads, G heads of keys and values, D head width, N segments
of a block, Q their queries, K their keys.
"""

import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils.generic import is_flash_attention_requested

from finevit_vl.packed_layout import PackedLayout
from modeling_finevit.attention import NO_SINKS, has_varlen_kernel

_PREFIX = "packed_"
_ANSWERED = ("sdpa", "eager", "torch_varlen", "flex_attention")
# Where each layer attends to all tokens before or to the last ones, which is what a layout knows to say.
_LAYER_TYPES = {"full_attention", "sliding_attention"}
# Arguments of a layer that sdpa drops or refuses; the model's own eager attention knows them.
_NOT_IN_SDPA = ("s_aux", "softcap")
# Up to so many keys two matrix products are faster on a CPU than sdpa's kernel: in bfloat16 5 times at 100, 2 at 500.
_PRODUCTS_UP_TO = 512


def plain_name(attention: str) -> str:
    """The implementation that answers calls without segments under this name."""
    return attention.removeprefix(_PREFIX)


def forward_in_segments(language_model: PreTrainedModel, layout: PackedLayout, arguments: Mapping[str, Any]) -> Any:
    """The outputs of the language model, which keeps the segments of a batch apart.

    From here on its config names an implementation that can (`packed_sdpa` for `sdpa`).

    Args:
        language_model: without its head.
        layout: of the batch.
        arguments: what the language model would be called with.

    Raises:
        ValueError: the language model or its attention implementation cannot, or the arguments ask for what packed
            attention has not: a mask, a cache or the attention weights.
    """
    arguments = {**arguments, **_segment_arguments(language_model, layout, arguments)}
    if torch.compiler.is_compiling():
        return language_model(**arguments)
    try:
        return language_model(**arguments)
    except RuntimeError as error:
        if layout.is_read or "packed_layout" not in arguments or isinstance(error, torch.OutOfMemoryError):
            raise
        raise ValueError(
            f"Segments need layers that attend through transformers' attention interface and leave masks to it; those "
            f"of {language_model.config.model_type} make something of the mask themselves: pad instead of packing."
        ) from error


def _segment_arguments(
    language_model: PreTrainedModel, layout: PackedLayout, arguments: Mapping[str, Any]
) -> dict[str, Any]:
    """What takes the place of a mask among the arguments, see `forward_in_segments`."""
    for name in ("attention_mask", "past_key_values", "use_cache", "output_attentions"):
        if arguments.get(name) is not None and arguments[name] is not False:
            raise ValueError(f"Segments take the place of a mask and go without a cache: leave {name} out.")
    _check_layers(language_model)
    config: Any = language_model.config
    name = plain_name(config._attn_implementation)
    given = arguments.get("position_ids")
    positions = {"position_ids": layout.position_ids if given is None else given, "use_cache": False}
    if is_flash_attention_requested(config):
        return positions | _flash_arguments(name, layout)
    if name not in _ANSWERED:
        raise ValueError(
            f"{name!r} attention in the language model knows no segments: set attn_implementation, e.g. to "
            f'{{"text_config": "sdpa"}}; {", ".join(_ANSWERED)} do, and flash_attention_2 without prefixes.'
        )
    config._attn_implementation_internal = _PREFIX + name
    # A mask of four dimensions is taken for finished, so that none is made; the functions below do not read it.
    nothing = torch.empty(layout.rows, 1, 0, 0, device=layout.device)
    return positions | {"packed_layout": layout, "attention_mask": nothing}


def _check_layers(language_model: PreTrainedModel) -> None:
    config: Any = language_model.config
    others = set(getattr(config, "layer_types", None) or ()) - _LAYER_TYPES
    if others or not language_model._supports_attention_backend:
        raise ValueError(
            f"Segments need a language model whose layers all attend through transformers' attention interface; "
            f"{config.model_type} has {', '.join(sorted(others)) or 'attention of its own'}: pad instead of packing."
        )


def _flash_arguments(name: str, layout: PackedLayout) -> dict[str, Any]:
    if layout.has_prefixes:
        raise ValueError(
            f"{name} has no way to share a picture between turns: set attn_implementation to "
            '{"text_config": "torch_varlen"}, PyTorch\'s own flash kernel.'
        )
    return {"attention_mask": None, **layout.varlen.arguments}


def packed_forward(plain: str) -> Callable:
    """The function that the attention interface calls under the name `packed_<plain>`."""

    def forward(
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: Any,
        packed_layout: PackedLayout | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        own: Any = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(plain, own)
        if packed_layout is None:
            return attend(module, query, key, value, attention_mask, **kwargs)
        _check_call(plain, module, packed_layout, kwargs)
        dtype = _attention_dtype(query)
        q_THD, k_TGD, v_TGD = (states.transpose(1, 2).flatten(0, 1).to(dtype) for states in (query, key, value))
        needs_backward = torch.is_grad_enabled() and query.requires_grad
        if plain == "torch_varlen" and has_varlen_kernel(q_THD):
            pack = _attend_varlen
        elif plain == "flex_attention" and (query.is_cuda or not needs_backward):
            pack = _attend_flex
        else:
            is_own = plain == "eager" or any(kwargs.get(name) is not None for name in _NOT_IN_SDPA)
            pack, attend = _attend_blocks, own if is_own else sdpa_attention_forward
        with torch.autocast(query.device.type, enabled=False):
            out_THD = pack(attend, module, q_THD, k_TGD, v_TGD, packed_layout, **kwargs)
        return out_THD.unflatten(0, (packed_layout.rows, packed_layout.length)), None

    return forward


def _check_call(plain: str, module: nn.Module, layout: PackedLayout, arguments: Mapping[str, Any]) -> None:
    """Raises ValueError for what would be computed as something else, without a word."""
    window = getattr(getattr(module, "config", None), "sliding_window", None)
    is_in_mask = hasattr(sys.modules[type(module).__module__], "create_sliding_window_causal_mask")
    is_given = arguments.get("sliding_window") is not None
    if window and window < layout.longest and is_in_mask and "sliding_window" not in arguments:
        raise ValueError(
            f"{type(module).__name__} keeps its sliding_window of {window} tokens in a mask, which segments take the "
            f"place of: max_length may be {window} at most, and is exceeded by a segment of {layout.longest} tokens."
        )
    if window and window < layout.longest and is_given and not is_in_mask:
        raise ValueError(
            f"{type(module).__name__} has its sliding_window of {window} tokens with flash attention alone, because "
            f"its masks know of none: set sliding_window in its config to null, or max_length to {window} at most."
        )
    if not getattr(module, "is_causal", True):
        raise ValueError(f"Segments are causal, and {type(module).__name__} attends in both directions: pad instead.")
    if plain == "torch_varlen" and arguments.get("s_aux") is not None:
        raise ValueError(NO_SINKS)


def _attention_dtype(states: torch.Tensor) -> torch.dtype:
    """Autocast's where it is on: norms and rotations before attention leave float32."""
    device = states.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states.dtype


def _attend_varlen(
    attend: Callable,
    module: nn.Module,
    q_THD: torch.Tensor,
    k_TGD: torch.Tensor,
    v_TGD: torch.Tensor,
    layout: PackedLayout,
    **kwargs: Any,
) -> torch.Tensor:
    """One call of a variable-length kernel; the picture's keys are repeated for each of its turns."""
    varlen = layout.varlen
    if varlen.key_index is not None:
        k_TGD, v_TGD = (_rows_of(states, varlen.key_index) for states in (k_TGD, v_TGD))
    states = [states.transpose(0, 1)[None] for states in (q_THD, k_TGD, v_TGD)]
    return attend(module, *states, None, **kwargs, **varlen.arguments)[0][0]


def _attend_flex(
    attend: Callable,
    module: nn.Module,
    q_THD: torch.Tensor,
    k_TGD: torch.Tensor,
    v_TGD: torch.Tensor,
    layout: PackedLayout,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> torch.Tensor:
    states = [states.transpose(0, 1)[None] for states in (q_THD, k_TGD, v_TGD)]
    return attend(module, *states, layout.flex_mask(sliding_window), **kwargs)[0][0]


@torch.compiler.disable
def _attend_blocks(
    attend: Callable,
    module: nn.Module,
    q_THD: torch.Tensor,
    k_TGD: torch.Tensor,
    v_TGD: torch.Tensor,
    layout: PackedLayout,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> torch.Tensor:
    """One call for each block of segments of similar length, with a small mask; 0 for tokens of no segment. A block
    without prefixes is causal, which sdpa's kernels know how to skip half of: they get no mask.

    Outside of the compiled graph, because the lengths are data: inside, every batch would recompile.
    """
    blocks, places = layout.blocks, []
    more = any(kwargs.get(name) for name in ("dropout", "softcap")) or kwargs.get("position_bias") is not None
    is_sdpa = attend is sdpa_attention_forward
    by_products = is_sdpa and not q_THD.is_cuda and not more
    query_sizes = [shape.count * shape.queries for shape in blocks.shapes]
    key_sizes = [shape.count * shape.keys for shape in blocks.shapes]
    queries = _rows_of(q_THD, blocks.query_index).split(query_sizes)
    keys, values = (_rows_of(states, blocks.key_index).split(key_sizes) for states in (k_TGD, v_TGD))
    for number, (shape, *parts) in enumerate(zip(blocks.shapes, queries, keys, values, strict=True)):
        states = [part.unflatten(0, (shape.count, -1)).transpose(1, 2) for part in parts]
        mask = partial(layout.block_mask, number, q_THD.dtype, sliding_window)
        if by_products and shape.keys <= _PRODUCTS_UP_TO:
            out_NQHD = _attend_by_products(*states, mask(), kwargs.get("scaling"))
        else:
            is_causal = is_sdpa and not shape.has_prefixes and not sliding_window
            out_NQHD = attend(module, *states, None if is_causal else mask(), **kwargs)[0]
        places.append(out_NQHD.flatten(0, 1))
    places.append(places[0].new_zeros(1, *places[0].shape[1:]))
    return _rows_of(torch.cat(places), blocks.place_index)


def _attend_by_products(
    q_NHQD: torch.Tensor, k_NGKD: torch.Tensor, v_NGKD: torch.Tensor, mask_N1QK: torch.Tensor, scaling: float | None
) -> torch.Tensor:
    """`(N, Q, H, D)`. Heads that share keys are laid one behind the other, so that no key is repeated."""
    count, heads, queries, width = q_NHQD.shape
    groups, keys = k_NGKD.shape[1:3]
    q = q_NHQD.reshape(count * groups, -1, width)
    k, v = (states.reshape(count * groups, keys, -1) for states in (k_NGKD, v_NGKD))
    scores_NHQK = torch.bmm(q, k.transpose(1, 2)).view(count, heads, queries, keys)
    scores_NHQK = torch.add(mask_N1QK, scores_NHQK, alpha=width**-0.5 if scaling is None else scaling)
    weights = F.softmax(scores_NHQK, dim=-1).view(count * groups, -1, keys)
    return torch.bmm(weights, v).view(count, heads, queries, -1).transpose(1, 2)


def _rows_of(states: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """`states[index]`. Looked up as embeddings are, whose backward is ten times as fast on a CPU as that of
    `index_select`, and the same each time on a GPU."""
    return F.embedding(index, states.flatten(1)).unflatten(1, states.shape[1:])


def register_packed_attention() -> None:
    """Make `packed_sdpa` and the others known to transformers, each with the mask of the implementation it follows."""
    for plain in _ANSWERED:
        AttentionInterface.register(_PREFIX + plain, packed_forward(plain))
        AttentionMaskInterface.register(_PREFIX + plain, ALL_MASK_ATTENTION_FUNCTIONS[plain])


__all__ = ["forward_in_segments", "plain_name", "register_packed_attention"]
