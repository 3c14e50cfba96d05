# Copyright 2026 The FineViT project. Licensed under the Apache License, Version 2.0.
"""The FineViT encoder: packed native resolution, 2D RoPE, SwiGLU, RMSNorm, Linear patch embedding.

Shape suffixes: T packed patches of all images, H heads, D head width.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .attention import attend_by_runs, eager_attention_forward
from .configuration_finevit import FineViTConfig
from .geometry import AttentionLayout, frame_sizes, image_layout, pack_images, patch_positions, window_layout


class FineViTRMSNorm(nn.Module):
    def __init__(self, hidden_size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.eps = eps

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        dtype = hidden_states.dtype
        hidden_states = hidden_states.float()
        scale = torch.rsqrt(hidden_states.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * (hidden_states * scale).to(dtype)

    def extra_repr(self) -> str:
        return f"{tuple(self.weight.shape)}, eps={self.eps}"


class FineViTRotaryEmbedding(nn.Module):
    """Axial 2D RoPE: the first half of a head's rotary pairs turns with the row, the second half with the column."""

    def __init__(self, config: FineViTConfig) -> None:
        super().__init__()
        self.config = config
        self.inv_freq = nn.Buffer(self.compute_inv_freq(config), persistent=False)

    @staticmethod
    def compute_inv_freq(config: FineViTConfig) -> torch.Tensor:
        """`(head_dim // 4,)` angular steps per patch, the same for rows and columns."""
        axis_dim = config.hidden_size // config.num_attention_heads // 2
        return 1.0 / config.rope_parameters["rope_theta"] ** (torch.arange(0, axis_dim, 2).float() / axis_dim)

    @torch.no_grad()
    def forward(self, row_T: torch.Tensor, column_T: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosine and sine of shape `(T, 1, head_dim // 2)`, in float32."""
        positions = torch.stack([row_T, column_T], dim=-1).float()
        angles = (positions[..., None] * self.inv_freq.float()).flatten(1)[:, None]
        return angles.cos(), angles.sin()


def apply_rotary(x_THD: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotates pair (i, i + D/2) of each head by angle i, in float32."""
    first, second = x_THD.float().chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x_THD.dtype)


class FineViTMLP(nn.Module):
    def __init__(self, config: FineViTConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(hidden_states)) * self.up_proj(hidden_states))


class FineViTAttention(nn.Module):
    """Bidirectional attention within each sequence of an [`AttentionLayout`]."""

    def __init__(self, config: FineViTConfig) -> None:
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.num_key_value_groups = 1
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=config.attention_bias)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=config.attention_bias)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=config.attention_bias)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=config.attention_bias)
        norm = FineViTRMSNorm if config.qk_norm else None
        self.q_norm = norm(self.head_dim, config.rms_norm_eps) if norm else nn.Identity()
        self.k_norm = norm(self.head_dim, config.rms_norm_eps) if norm else nn.Identity()

    def forward(
        self, hidden_states: torch.Tensor, layout: AttentionLayout, **kwargs: Any
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...] | None]:
        if layout.order is not None:
            hidden_states = hidden_states.index_select(0, layout.order)
        heads = (hidden_states.shape[0], -1, self.head_dim)
        q_THD = apply_rotary(self.q_norm(self.q_proj(hidden_states).view(heads)), layout.cos, layout.sin)
        k_THD = apply_rotary(self.k_norm(self.k_proj(hidden_states).view(heads)), layout.cos, layout.sin)
        v_THD = self.v_proj(hidden_states).view(heads)
        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        dropout = self.config.attention_dropout if self.training else 0.0
        out_THD, weights = attend_by_runs(
            attend, self, q_THD, k_THD, v_THD, layout, scaling=self.scaling, dropout=dropout, **kwargs
        )
        output = self.o_proj(out_THD.flatten(1))
        if layout.inverse is not None:
            output = output.index_select(0, layout.inverse)
        return output, weights


class FineViTLayer(GradientCheckpointingLayer):
    def __init__(self, config: FineViTConfig) -> None:
        super().__init__()
        self.input_layernorm = FineViTRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = FineViTAttention(config)
        self.post_attention_layernorm = FineViTRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = FineViTMLP(config)

    def forward(self, hidden_states: torch.Tensor, layout: AttentionLayout, **kwargs: Any) -> torch.Tensor:
        hidden_states = hidden_states + self.self_attn(self.input_layernorm(hidden_states), layout, **kwargs)[0]
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))


class FineViTPreTrainedModel(PreTrainedModel):
    config: FineViTConfig
    base_model_prefix = "vision_model"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["FineViTLayer"]
    _input_embed_layer = "patch_embed"
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_record_outputs = {"hidden_states": FineViTLayer, "attentions": FineViTAttention}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, FineViTRotaryEmbedding):
            init.copy_(module.inv_freq, module.compute_inv_freq(module.config))


class FineViTModel(FineViTPreTrainedModel):
    """The bare encoder."""

    def __init__(self, config: FineViTConfig) -> None:
        super().__init__(config)
        patch_dim = config.num_channels * config.patch_size**2
        self.patch_embed = nn.Linear(patch_dim, config.hidden_size, bias=config.patch_embed_bias)
        self.rotary_emb = FineViTRotaryEmbedding(config)
        self.layers = nn.ModuleList([FineViTLayer(config) for _ in range(config.num_hidden_layers)])
        self.norm = FineViTRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        image_grid_thw: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        r"""
        Args:
            pixel_values (`torch.FloatTensor`): packed patches `(sum_patches, channels * patch_size²)` in merge order,
                or a plain batch `(batch, channels, height, width)` with sides in multiples of 28 pixels.
            image_grid_thw (`torch.LongTensor` of shape `(num_images, 3)`): frames, rows and columns of patches; not
                needed for a plain batch.
            inputs_embeds (`torch.FloatTensor` of shape `(sum_patches, hidden_size)`, *optional*): embedded patches
                instead of `pixel_values`.

        Returns:
            `last_hidden_state` `(sum_patches, hidden_size)` after the final norm, in merge order, and `pooler_output`
            `(num_images, hidden_size)`, the mean over each image's patches.
        """
        if pixel_values is not None and pixel_values.ndim == 4:
            pixel_values, image_grid_thw = pack_images(
                pixel_values, self.config.patch_size, self.config.spatial_merge_size
            )
        if inputs_embeds is None:
            inputs_embeds = self.patch_embed(pixel_values.to(self.patch_embed.weight.dtype))
        layouts, lengths = self.get_layouts(image_grid_thw, inputs_embeds.device)
        hidden_states = inputs_embeds
        for layer, layout in zip(self.layers, layouts, strict=True):
            hidden_states = layer(hidden_states, layout=layout, **kwargs)
        hidden_states = self.norm(hidden_states)
        pooled = torch.segment_reduce(hidden_states, "mean", lengths=lengths)
        return BaseModelOutputWithPooling(last_hidden_state=hidden_states, pooler_output=pooled)

    @torch.compiler.disable
    @torch.no_grad()
    def get_layouts(
        self, image_grid_thw: torch.Tensor, device: torch.device
    ) -> tuple[list[AttentionLayout], torch.Tensor]:
        """The attention layout of every layer, and the number of patches of each image."""
        config = self.config
        grid_thw = image_grid_thw.cpu()
        sizes = frame_sizes(grid_thw)
        row, column, _ = patch_positions(sizes, config.spatial_merge_size)
        full = self._place(image_layout(sizes), row, column, device)
        lengths = grid_thw.prod(-1).to(device)
        if config.fullatt_block_indexes is None:
            return [full] * config.num_hidden_layers, lengths
        windows = window_layout(sizes, config.spatial_merge_size, config.window_size // config.patch_size)
        windows = self._place(windows, row, column, device)
        is_full = set(config.fullatt_block_indexes)
        return [full if index in is_full else windows for index in range(config.num_hidden_layers)], lengths

    def _place(
        self, layout: AttentionLayout, row: torch.Tensor, column: torch.Tensor, device: torch.device
    ) -> AttentionLayout:
        if layout.order is not None:
            row, column = row[layout.order], column[layout.order]
            layout.order, layout.inverse = layout.order.to(device), layout.inverse.to(device)
        layout.cu_seqlens = layout.cu_seqlens.to(device)
        layout.cos, layout.sin = self.rotary_emb(row.to(device), column.to(device))
        return layout


__all__ = ["FineViTModel", "FineViTPreTrainedModel"]
