# Copyright 2026 The FineViT project. Licensed under the Apache License, Version 2.0.
"""Configuration of the FineViT encoder. [P]: fixed by the paper (arXiv 2603.17326), [D]: this project's default."""

from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

# name: (hidden_size, num_hidden_layers, num_attention_heads). `full` is the paper's encoder; the others follow the
# widths and depths of the ViT family (Dosovitskiy et al. 2021), so that they compare with what people know.
FINEVIT_SIZES: dict[str, tuple[int, int, int]] = {
    "nano": (128, 4, 4),
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
    "full": (1536, 28, 16),
}


@strict
class FineViTConfig(PreTrainedConfig):
    r"""Configuration of [`FineViTModel`]. The defaults are the paper's encoder with 860,249,088 parameters.

    Args:
        hidden_size (`int`, defaults to 1536): Width [P].
        intermediate_size (`int`, *optional*): Width of the gated MLP; `None` means 3 x `hidden_size` [P: 4608].
        num_hidden_layers (`int`, defaults to 28): Number of blocks [P].
        num_attention_heads (`int`, defaults to 16): Number of heads of `hidden_size // num_attention_heads` channels,
            which must be a multiple of 4 (row and column rotary pairs) [P]. Take a multiple of 8: `torch_varlen` has
            no kernel for others and falls back to `sdpa`, image by image.
        num_channels (`int`, defaults to 3): Colour channels of the input.
        patch_size (`int`, defaults to 14): Side of a patch in pixels [P].
        spatial_merge_size (`int`, defaults to 2): Patches travel in blocks of this side, the unit that a projector
            merges into one token [P].
        hidden_act (`str`, defaults to `"silu"`): Activation of the MLP's gate [P].
        rms_norm_eps (`float`, defaults to 1e-6): Epsilon of every RMSNorm [D: openPangu-VL, Qwen2.5-VL].
        rope_parameters (`dict`, *optional*): `{"rope_type": "axial", "rope_theta": 10000.0}`; half of the rotary pairs
            are driven by the row, half by the column [P]. Theta is 10000 [D: Qwen2.5-VL, openPangu-VL].
        attention_bias (`bool`, defaults to `True`): Biases of q, k, v and output projections [D: openPangu-VL].
        mlp_bias (`bool`, defaults to `True`): Biases of the MLP [D: openPangu-VL].
        patch_embed_bias (`bool`, defaults to `True`): Bias of the patch embedding [D: with it the parameters are
            860,249,088, the paper's "860M"]. Qwen2.5-VL and openPangu-VL have none.
        qk_norm (`bool`, defaults to `False`): RMSNorm on the heads of q and k before the rotation [D: none, as in
            openPangu-VL; the switch follows Dehghani et al. 2023, ViT-22B].
        window_size (`int`, defaults to 112): Side in pixels of the attention windows of the layers that are not in
            `fullatt_block_indexes` [D: Qwen2.5-VL].
        fullatt_block_indexes (`list[int]`, *optional*): Layers that attend over the whole image; `None` means all of
            them [P weak / D]. Qwen2.5-VL uses `[7, 15, 23, 31]`.
        attention_dropout (`float`, defaults to 0.0): Dropout on the attention probabilities [D: none, as Qwen2.5-VL].
        initializer_range (`float`, defaults to 0.02): Standard deviation of the initial weights [D: Qwen2.5-VL].
        teacher_hidden_size (`int`, defaults to 1024): Width of what [`FineViTForMaskedImageModeling`] regresses: a
            frozen teacher's features [D: DINOv3 ViT-L/16; the paper names DINOv3 but not its size], or the pixels of a
            patch (`num_channels * patch_size²`).
        loss_on (`str`, defaults to `"masked"`): Patches whose errors count [P: the masked]. `"all"` counts the visible
            ones too, which helps small models (CAE v2, arXiv 2211.09799; iBOT++, arXiv 2604.12012).
        target_norm (`str`, defaults to `"none"`): What is done to the targets of each patch: `"none"` [P: L2];
            `"layer_norm"`, mean 0 and variance 1, as MAE does with pixels (arXiv 2111.06377) and MaskDistill with
            features (arXiv 2210.10615); `"l2"`, unit length of targets and predictions, whose squared distance is
            EVA-02's `2 - 2 cos`.
    """

    model_type = "finevit"
    base_config_key = "vision_config"
    default_rope_type = "axial"
    default_theta = 10_000.0
    base_model_tp_plan: ClassVar[dict[str, Any] | None] = {
        "layers.*.self_attn.q_proj": "colwise",
        "layers.*.self_attn.k_proj": "colwise",
        "layers.*.self_attn.v_proj": "colwise",
        "layers.*.self_attn.o_proj": "rowwise",
        "layers.*.mlp.gate_proj": "colwise",
        "layers.*.mlp.up_proj": "colwise",
        "layers.*.mlp.down_proj": "rowwise",
    }
    base_model_fsdp_plan: ClassVar[dict[Any, str]] = {
        "patch_embed": "free_full_weight",
        "layers.*": "free_full_weight",
        "norm": "keep_full_weight",
    }

    hidden_size: int = 1536
    intermediate_size: int | None = None
    num_hidden_layers: int = 28
    num_attention_heads: int = 16
    num_channels: int = 3
    patch_size: int = 14
    spatial_merge_size: int = 2
    hidden_act: str = "silu"
    rms_norm_eps: float = 1e-6
    rope_parameters: dict | None = None
    attention_bias: bool = True
    mlp_bias: bool = True
    patch_embed_bias: bool = True
    qk_norm: bool = False
    window_size: int = 112
    fullatt_block_indexes: list[int] | None = None
    attention_dropout: float | int = 0.0
    initializer_range: float = 0.02
    teacher_hidden_size: int = 1024
    loss_on: Literal["masked", "all"] = "masked"
    target_norm: Literal["none", "layer_norm", "l2"] = "none"

    def __post_init__(self, **kwargs: Any) -> None:
        if self.intermediate_size is None:
            self.intermediate_size = 3 * self.hidden_size
        if self.hidden_size % self.num_attention_heads or (self.hidden_size // self.num_attention_heads) % 4:
            raise ValueError(
                f"hidden_size ({self.hidden_size}) / num_attention_heads ({self.num_attention_heads}) must be a "
                "multiple of 4: half of the rotary pairs of a head are driven by the row, half by the column."
            )
        if self.fullatt_block_indexes is not None and self.window_size % (self.patch_size * self.spatial_merge_size):
            raise ValueError(
                f"window_size ({self.window_size} pixels) must be a multiple of patch_size * spatial_merge_size "
                f"({self.patch_size * self.spatial_merge_size}), so that no merged token lies in two windows."
            )
        full_layers = self.fullatt_block_indexes or ()
        if any(not 0 <= index < self.num_hidden_layers for index in full_layers):
            raise ValueError(
                f"fullatt_block_indexes ({list(full_layers)}) must lie in [0, {self.num_hidden_layers}), the layers."
            )
        super().__post_init__(**kwargs)

    @classmethod
    def from_size(cls, size: str, **overrides: Any) -> "FineViTConfig":
        """The one dial: `nano` (0.9 M parameters) to `full` (860,249,088), MLP = 3 x width; `overrides` are fields.

        Raises:
            ValueError: if `size` is not one of the known sizes.
        """
        if size not in FINEVIT_SIZES:
            raise ValueError(f"Unknown FineViT size {size!r}; choose one of {', '.join(FINEVIT_SIZES)}.")
        hidden_size, num_hidden_layers, num_attention_heads = FINEVIT_SIZES[size]
        fields: dict[str, Any] = {
            "hidden_size": hidden_size,
            "num_hidden_layers": num_hidden_layers,
            "num_attention_heads": num_attention_heads,
        }
        return cls(**(fields | overrides))


__all__ = ["FINEVIT_SIZES", "FineViTConfig"]
