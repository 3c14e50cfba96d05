# Copyright 2026 The FineViT project. Licensed under the Apache License, Version 2.0.
"""Axial 2D rotary position embedding (RoPE): half of a head's channel pairs turn with the row, half with the column.

Shape suffixes: T patches of all pictures, H heads, D channels of a head.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from .configuration_finevit import FineViTConfig


class FineViTRotaryEmbedding(nn.Module):
    """Axial 2D RoPE: the first half of a head's rotary pairs turns with the row, the second half with the column."""

    def __init__(self, config: FineViTConfig) -> None:
        super().__init__()
        self.config = config
        self.inv_freq = nn.Buffer(self.compute_inv_freq(config), persistent=False)

    def _apply(self, fn: Callable, recurse: bool = True) -> "FineViTRotaryEmbedding":
        """The frequencies stay float32 under `.to(torch.bfloat16)`, which would turn row 71 by up to 0.1 rad."""
        super()._apply(fn, recurse)
        if self.inv_freq.dtype != torch.float32:
            self.inv_freq = self.compute_inv_freq(self.config).to(self.inv_freq.device)
        return self

    @staticmethod
    def compute_inv_freq(config: FineViTConfig) -> torch.Tensor:
        """`(head_dim // 4,)` angular steps per patch, the same for rows and columns."""
        axis_dim = config.hidden_size // config.num_attention_heads // 2
        rope_parameters: dict[str, Any] = config.rope_parameters or {}
        return 1.0 / rope_parameters["rope_theta"] ** (torch.arange(0, axis_dim, 2).float() / axis_dim)

    @torch.no_grad()
    def forward(self, row_T: torch.Tensor, column_T: torch.Tensor) -> torch.Tensor:
        """Cosine and sine of each rotary pair's angle, float32 of shape `(T, 1, head_dim // 2, 2)`."""
        positions = torch.stack([row_T, column_T], dim=-1).float()
        angles = (positions[..., None] * self.inv_freq.float()).flatten(1)[:, None]
        return torch.stack([angles.cos(), angles.sin()], dim=-1)


def apply_rotary(x_THD: torch.Tensor, rotation: torch.Tensor) -> torch.Tensor:
    """Rotates the neighbouring channels (2i, 2i + 1) of each head by angle i, in float32.

    Args:
        x_THD (`torch.FloatTensor` of shape `(T, H, D)`): queries or keys.
        rotation (`torch.FloatTensor` of shape `(T, 1, D // 2, 2)`): cosines and sines, as [`FineViTRotaryEmbedding`]
            gives them. The backward pass keeps these alone, once for all layers.

    Returns:
        `(T, H, D)` in the dtype of `x_THD`.

    A rotation of neighbours is one complex product: a third of the time of the half-split form. Inductor generates no
    code for complex numbers, so a compiled graph gets the same product written out.
    """
    pairs = x_THD.float().unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling():
        (real, imaginary), (cos, sin) = pairs.unbind(-1), rotation.unbind(-1)
        rotated = torch.stack([real * cos - imaginary * sin, imaginary * cos + real * sin], dim=-1)
    else:
        rotated = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(rotation))
    return rotated.flatten(-2).to(x_THD.dtype)
