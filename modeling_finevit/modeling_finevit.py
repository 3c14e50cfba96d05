# Copyright 2026 The FineViT project. Licensed under the Apache License, Version 2.0.
"""The FineViT encoder: packed native resolution, 2D RoPE, SwiGLU, RMSNorm, Linear patch embedding.

On CUDA load it with `attn_implementation="torch_varlen"` (or `flash_attention_2`): one kernel call for a whole ragged
batch. `sdpa`, `eager` and `flex_attention` give the same numbers anywhere.

`torch.compile`: the bookkeeping at the start of `forward` ([`FineViTModel.get_layouts`]) runs outside of the graph.
With `torch_varlen`, `flash_attention_2` and `flex_attention` the blocks compile whole; with `sdpa` and `eager` each
attention call breaks the graph, because the lengths of the images are data. After the first few batches have shown
that sizes vary, no new mix of image sizes recompiles, with one exception: PyTorch 2.15's `torch_varlen` takes another
kernel where a sequence has more than 128 patches, which is one more graph.

Shape suffixes: T packed patches of all images, C channels (hidden size), H heads, D head width.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
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

from .attention import attend_packed, eager_attention_forward, takes_packed
from .configuration_finevit import FineViTConfig
from .layouts import AttentionLayout, flex_block_mask, image_layout, window_layout
from .lean import rms_norm, silu_gate
from .patches import frame_sizes, pack_images, patch_positions
from .registration import forget_key_mapping
from .rotary import FineViTRotaryEmbedding, apply_rotary


class FineViTRMSNorm(nn.Module):
    def __init__(self, hidden_size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.eps = eps

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(..., hidden_size)` in the dtype it came in, also under autocast, where the weight is wider."""
        return rms_norm(hidden_states, self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{tuple(self.weight.shape)}, eps={self.eps}"


class FineViTMLP(nn.Module):
    def __init__(self, config: FineViTConfig) -> None:
        super().__init__()
        width: int = config.intermediate_size  # ty: ignore[invalid-assignment]  (set by the config's __post_init__)
        self.gate_proj = nn.Linear(config.hidden_size, width, bias=config.mlp_bias)
        self.up_proj = nn.Linear(config.hidden_size, width, bias=config.mlp_bias)
        self.down_proj = nn.Linear(width, config.hidden_size, bias=config.mlp_bias)
        self.act_fn = ACT2FN[config.hidden_act]
        self.is_silu = config.hidden_act in ("silu", "swish")

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(T, C)` to `(T, C)`: SwiGLU, each patch by itself."""
        gate, up = self.gate_proj(hidden_states), self.up_proj(hidden_states)
        return self.down_proj(silu_gate(gate, up) if self.is_silu else self.act_fn(gate) * up)


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
        self.q_norm = FineViTRMSNorm(self.head_dim, config.rms_norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = FineViTRMSNorm(self.head_dim, config.rms_norm_eps) if config.qk_norm else nn.Identity()

    def forward(
        self, hidden_states: torch.Tensor, layout: AttentionLayout, **kwargs: Any
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...] | None]:
        """`(T, C)` in packed order to `(T, C)` in packed order, and the weights as [`attend_packed`] gives them."""
        if layout.order is not None:
            hidden_states = hidden_states.index_select(0, layout.order)
        heads = (-1, self.head_dim)
        q_THD = apply_rotary(self.q_norm(self.q_proj(hidden_states).unflatten(-1, heads)), layout.rotation)
        k_THD = apply_rotary(self.k_norm(self.k_proj(hidden_states).unflatten(-1, heads)), layout.rotation)
        v_THD = self.v_proj(hidden_states).unflatten(-1, heads)
        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        dropout = self.config.attention_dropout if self.training else 0.0
        out_THD, weights = attend_packed(
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
        """`(T, C)` to `(T, C)`, both in packed order."""
        hidden_states = hidden_states + self.self_attn(self.input_layernorm(hidden_states), layout, **kwargs)[0]
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))


class FineViTPreTrainedModel(PreTrainedModel):
    config: FineViTConfig
    base_model_prefix = "vision_model"
    main_input_name = "pixel_values"
    input_modalities = "image"
    supports_gradient_checkpointing = True
    _no_split_modules = ["FineViTLayer"]  # noqa: RUF012
    _input_embed_layer = "patch_embed"
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_record_outputs = {"hidden_states": FineViTLayer, "attentions": FineViTAttention}  # noqa: RUF012

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, FineViTRotaryEmbedding):
            init.copy_(module.inv_freq, module.compute_inv_freq(module.config))


# A FineViT-VL keeps its encoder under these names (FineViTVLForConditionalGeneration, FineViTVLModel).
_VISION_TOWER = r"^(model\.)?vision_tower\."


class FineViTModel(FineViTPreTrainedModel):
    """The encoder: packed patches in, one vector per patch and one per image out."""

    _keys_to_ignore_on_load_unexpected = [  # noqa: RUF012
        r"^(model\.)?(language_model|multi_modal_projector)\.",
        r"^lm_head\.",
        r"^(text_model|pooling|text_projection)\.",
        r"^logit_(scale|bias)$",
        r"^(mask_token|head\.(weight|bias))$",
    ]

    def __init__(self, config: FineViTConfig) -> None:
        super().__init__(config)
        patch_dim = config.num_channels * config.patch_size**2
        self.patch_embed = nn.Linear(patch_dim, config.hidden_size, bias=config.patch_embed_bias)
        self.rotary_emb = FineViTRotaryEmbedding(config)
        self.layers = nn.ModuleList([FineViTLayer(config) for _ in range(config.num_hidden_layers)])
        self.norm = FineViTRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path | None, *model_args: Any, **kwargs: Any) -> Any:
        """As in transformers; of the folder of a FineViT-VL or a FineViTDualModel it loads the encoder's weights."""
        kwargs.setdefault("key_mapping", {_VISION_TOWER: ""})
        loaded = super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)
        forget_key_mapping(loaded[0] if isinstance(loaded, tuple) else loaded)
        return loaded

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        image_grid_thw: torch.Tensor | np.ndarray | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | BaseModelOutputWithPooling:
        r"""
        Args:
            pixel_values (`torch.FloatTensor`): packed patches `(sum_patches, channels * patch_size²)` in merge order,
                or a plain batch `(batch, channels, height, width)` with sides in multiples of 28 pixels.
            image_grid_thw (`torch.LongTensor` of shape `(num_images, 3)`): frames, rows and columns of patches of each
                image; not needed for a plain batch. Leave it on the CPU to spare the GPU a synchronisation, or give it
                as an array of NumPy, which DDP and FSDP do not move to the GPU.
            inputs_embeds (`torch.FloatTensor` of shape `(sum_patches, hidden_size)`, *optional*): embedded patches
                instead of `pixel_values`.

        Returns:
            `last_hidden_state` `(sum_patches, hidden_size)` after the final norm, in merge order; `pooler_output`
            `(num_images, hidden_size)`, the mean over each image's patches; if asked for, `hidden_states`, and
            `attentions` (`eager`): for each layer a tuple with `(1, heads, L, L)` for each image (window).

        Raises:
            ValueError: the patches and the grid do not fit together.
        """
        if pixel_values is not None and pixel_values.ndim == 4:
            pixel_values, image_grid_thw = pack_images(
                pixel_values, self.config.patch_size, self.config.spatial_merge_size
            )
        if inputs_embeds is None:
            inputs_embeds = self.embed_patches(pixel_values)
        layouts, image_T, lengths = self.get_layouts(image_grid_thw, inputs_embeds)
        hidden_states = inputs_embeds
        for layer, layout in zip(self.layers, layouts, strict=True):
            hidden_states = layer(hidden_states, layout=layout, **kwargs)
        hidden_states = self.norm(hidden_states)
        # By index, because MPS has no segment_reduce; in float32, because an image may have thousands of patches.
        sums = hidden_states.new_zeros(len(lengths), hidden_states.shape[1], dtype=torch.float32)
        pooled = (sums.index_add(0, image_T, hidden_states.float()) / lengths[:, None]).to(hidden_states.dtype)
        return BaseModelOutputWithPooling(last_hidden_state=hidden_states, pooler_output=pooled)

    def embed_patches(self, pixel_values: torch.Tensor | None) -> torch.Tensor:
        """`(sum_patches, channels * patch_size²)` to `(sum_patches, hidden_size)`."""
        patch_dim = self.patch_embed.in_features
        if pixel_values is None or pixel_values.ndim != 2 or pixel_values.shape[1] != patch_dim:
            got = None if pixel_values is None else tuple(pixel_values.shape)
            raise ValueError(
                f"pixel_values must be packed patches of shape (sum_patches, {patch_dim}) with image_grid_thw, or a "
                f"plain batch (batch, {self.config.num_channels}, height, width); got {got}."
            )
        return self.patch_embed(pixel_values.to(self.patch_embed.weight.dtype))

    @torch.compiler.disable
    @torch.no_grad()
    def get_layouts(
        self, image_grid_thw: torch.Tensor | np.ndarray | None, inputs_embeds: torch.Tensor
    ) -> tuple[list[AttentionLayout], torch.Tensor, torch.Tensor]:
        """The attention layout of every layer, the image of each patch `(sum_patches,)` and the number of patches of
        each image `(num_images,)`; one host synchronisation if the grid lies on a GPU, none if it lies on the CPU."""
        config, device = self.config, inputs_embeds.device
        grid_thw = self._checked_grid(image_grid_thw, len(inputs_embeds))
        sizes = frame_sizes(grid_thw)
        row, column, _ = patch_positions(sizes, config.spatial_merge_size)
        by_length = not takes_packed(config, inputs_embeds.unflatten(-1, (config.num_attention_heads, -1)))
        full_layers = config.fullatt_block_indexes
        if full_layers is None:
            full_layers = range(config.num_hidden_layers)
        full = windows = self._place(image_layout(sizes, by_length), row, column, device)
        if len(full_layers) < config.num_hidden_layers:
            window = config.window_size // config.patch_size
            windows = window_layout(sizes, config.spatial_merge_size, window, by_length)
            windows = self._place(windows, row, column, device)
        layouts = [full if index in full_layers else windows for index in range(config.num_hidden_layers)]
        lengths = grid_thw.prod(-1)
        return layouts, torch.repeat_interleave(lengths).to(device), lengths.to(device)

    def _checked_grid(self, image_grid_thw: torch.Tensor | np.ndarray | None, num_patches: int) -> torch.Tensor:
        if image_grid_thw is None or image_grid_thw.ndim != 2 or image_grid_thw.shape[1] != 3:
            raise ValueError("Packed patches need image_grid_thw of shape (num_images, 3): frames, rows, columns.")
        grid_thw = torch.as_tensor(image_grid_thw).detach().to("cpu", torch.long)
        merge_size = self.config.spatial_merge_size
        if bool((grid_thw < 1).any()) or bool((grid_thw[:, 1:] % merge_size).any()):
            raise ValueError(
                f"Rows and columns in image_grid_thw must be positive multiples of {merge_size}: {grid_thw.tolist()}."
            )
        if int(grid_thw.prod(-1).sum()) != num_patches:
            raise ValueError(
                f"image_grid_thw announces {int(grid_thw.prod(-1).sum())} patches, but there are {num_patches}."
            )
        return grid_thw

    def _place(
        self, layout: AttentionLayout, row: torch.Tensor, column: torch.Tensor, device: torch.device
    ) -> AttentionLayout:
        layout = layout.to(device)
        row, column = row.to(device), column.to(device)
        if layout.order is not None:
            row, column = row[layout.order], column[layout.order]
        layout.rotation = self.rotary_emb(row, column)
        if self.config._attn_implementation == "flex_attention":
            layout.block_mask = flex_block_mask(layout.cu_seqlens, len(row))
        return layout


__all__ = ["FineViTModel", "FineViTPreTrainedModel"]
