"""Blocks compiled one by one: one graph for all layers, which new mixes of picture sizes do not compile again."""

from typing import Any

from torch import nn
from torch.cuda import is_available as has_cuda


def compile_blocks(encoder: nn.Module, **options: Any) -> None:
    """Compiles the layers of a FineViT in place, each whole; names of weights stay as they are.

    Args:
        encoder: a FineViTModel whose attention is torch_varlen, flash_attention_2 or flex_attention.
        options: for `torch.compile`.

    Raises:
        ValueError: the attention goes through the pictures one by one, which breaks every graph.
    """
    config: Any = encoder.config
    attention = config._attn_implementation
    if attention in ("sdpa", "eager") or (attention == "torch_varlen" and not has_cuda()):
        raise ValueError(
            f"compile_blocks: {attention} attention goes through the pictures one by one here, and no graph holds "
            "that; set attn_implementation to torch_varlen (on CUDA), flash_attention_2 or flex_attention, or leave "
            "compile_blocks out"
        )
    layers: Any = encoder.layers
    for layer in layers:
        layer.compile(fullgraph=True, **options)
