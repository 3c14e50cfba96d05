# Copyright 2026 The FineViT project. Licensed under the Apache License, Version 2.0.
"""Configuration of stage II's two towers. [P]: fixed by the paper (arXiv 2603.17326), [D]: this project's default."""

import math
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

from ..configuration_finevit import FINEVIT_SIZES, FineViTConfig
from .text_tower import check_text_tower

# size: (hidden_size, num_hidden_layers, num_attention_heads, intermediate_size). `full` is SigLIP 2 giant's text tower
# [P]; the others are as wide as the encoder of that size with a plain MLP of 4 x width, as SigLIP's base and large.
_TEXT_SIZES = {
    **{size: (width, depth, heads, 4 * width) for size, (width, depth, heads) in FINEVIT_SIZES.items()},
    "nano": (128, 3, 4, 512),
    "full": (1152, 27, 16, 4304),
}


@strict
class FineViTDualConfig(PreTrainedConfig):
    r"""Configuration of [`FineViTDualModel`]. The defaults are the paper's towers: FineViT and SigLIP 2 giant's text
    tower, 256 tokens long.

    Args:
        vision_config (`FineViTConfig` or `dict`, *optional*): The encoder.
        text_config (`Siglip2TextConfig`, `SiglipTextConfig` or `dict`, *optional*): The text tower. Its
            `max_position_embeddings` is the length that every text is padded to (256 [P]), its `pad_token_id` is what
            with, its `projection_size` the width of its embeddings.
        text_projection (`bool`, defaults to `False`): A linear layer from the text tower's width to the encoder's. The
            paper's towers have one width [P], so it must be asked for where they differ.
        num_pooling_queries (`int`, defaults to 1): Learned queries of the attention pooling, averaged where there are
            several [P: attention pooling; D: one, as SigLIP 2].
        text_padding_mask (`bool`, defaults to `False`): Whether padding is hidden from the text tower's attention.
            SigLIP's towers were trained to see it. One from scratch learns much sooner without: where a caption fills
            a sixth of the length, the pooled position begins as a mean of padding.
        logit_scale_init_value (`float`, defaults to log 10): Start of the learned scale's logarithm [D: SigLIP].
        logit_bias_init_value (`float`, defaults to -10): Start of the learned bias [D: SigLIP].

    Raises:
        ValueError: towers of different widths without a projection or of the same with one, or another text tower than
            SigLIP's.
    """

    model_type = "finevit_dual"
    sub_configs = {"vision_config": FineViTConfig, "text_config": AutoConfig}  # noqa: RUF012

    # `dict | PreTrainedConfig | None` before, a config after `__post_init__`.
    vision_config: Any = None
    text_config: Any = None
    text_projection: bool = False
    num_pooling_queries: int = 1
    text_padding_mask: bool = False
    logit_scale_init_value: float = math.log(10)
    logit_bias_init_value: float | int = -10.0

    def __post_init__(self, **kwargs: Any) -> None:
        if not isinstance(self.vision_config, PreTrainedConfig):
            self.vision_config = FineViTConfig(**(self.vision_config or {}))
        if not isinstance(self.text_config, PreTrainedConfig):
            fields = dict(self.text_config or text_fields("full", self.vision_config.hidden_size))
            self.text_config = AutoConfig.for_model(fields.pop("model_type", "siglip2_text_model"), **fields)
        check_text_tower(self.text_config.model_type, "text_config")
        self._check_widths()
        super().__post_init__(**kwargs)

    def _check_widths(self) -> None:
        text, vision = self.text_config.projection_size, self.vision_config.hidden_size
        if text != vision and not self.text_projection:
            raise ValueError(
                f"The text tower's embeddings are {text} wide, the encoder's {vision}: take towers of one width, or "
                "ask for a projection between them with text_projection=True."
            )
        if text == vision and self.text_projection:
            raise ValueError(f"Both towers are {vision} wide, so that text_projection has no use: leave it out.")

    @property
    def text_length(self) -> int:
        """Tokens that every text is padded or cut to."""
        return self.text_config.max_position_embeddings

    @classmethod
    def from_size(cls, size: str, **overrides: Any) -> "FineViTDualConfig":
        """One dial for both towers, `nano` to `full`; `overrides` are fields of this config, `vision_config` and
        `text_config` as dicts of fields to change.

        Raises:
            ValueError: an unknown size.
        """
        vision = FineViTConfig.from_size(size, **overrides.pop("vision_config", {}))  # which refuses an unknown size
        text = text_fields(size, vision.hidden_size) | overrides.pop("text_config", {})
        fields: dict[str, Any] = {"vision_config": vision, "text_config": text}
        return cls(**(fields | overrides))


def text_fields(size: str, projection_size: int) -> dict[str, Any]:
    """Fields of a text tower of this size with Gemma's vocabulary and special tokens, as SigLIP 2's.

    Args:
        projection_size: width of its embeddings, the encoder's.
    """
    width, depth, heads, mlp = _TEXT_SIZES[size]
    return {
        "vocab_size": 256_000,
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "intermediate_size": mlp,
        "max_position_embeddings": 256,
        "projection_size": projection_size,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": 2,
    }


__all__ = ["FineViTDualConfig", "text_fields"]
