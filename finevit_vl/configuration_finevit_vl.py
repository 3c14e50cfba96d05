# Copyright 2026 The FineViT project. Licensed under the Apache License, Version 2.0.
"""Configuration of FineViT-VL: a FineViT, a projector and a causal language model."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig, PreTrainedTokenizerBase

from finevit_vl.tokenizer import (
    IMAGE_TOKEN,
    PLAIN_ADDED_TOKENS,
    QWEN_NUM_RANKS,
    SPECIAL_TOKENS,
    VISION_END_TOKEN,
    VISION_START_TOKEN,
)
from modeling_finevit import FineViTConfig

# Fields by which language models change their head's product, and the value that changes nothing.
_OF_LOGITS = {"final_logit_softcapping": None, "logit_scale": 1.0, "logits_scaling": 1.0, "lm_head_multiplier": 1.0}
SCALES = (
    f"{{}} scales or caps its head's logits ({', '.join(_OF_LOGITS)}), which a FineViT-VL does not: its answers would "
    "not be the language model's. Use one without, such as Qwen, Llama, Mistral or Gemma 3."
)

# Text towers beside the encoder sizes. `large` and `full` are Qwen3-0.6B and Qwen3-1.7B (their published configs; the
# FineViT paper pairs its encoder with Qwen3-1.7B and 8B); the smaller ones keep its shape rules at a laptop's scale.
_TEXT_SIZES: dict[str, dict[str, int]] = {
    "nano": {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "head_dim": 32},
    "tiny": {"hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 4, "head_dim": 64},
    "small": {"hidden_size": 384, "num_hidden_layers": 8, "num_attention_heads": 6, "head_dim": 64},
    "base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "head_dim": 64},
    "large": {"hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16, "head_dim": 128},
    "full": {"hidden_size": 2048, "num_hidden_layers": 28, "num_attention_heads": 16, "head_dim": 128},
}
_SMALL_VOCAB_RANKS = 8192
# Qwen3 pads its embedding to 151,936 rows, above the 151,669 entries of the tokenizer.
_QWEN3_EMBEDDING_ROWS = 151_936


@strict
class FineViTVLConfig(PreTrainedConfig):
    r"""
    Configuration of [`FineViTVLForConditionalGeneration`].

    Args:
        vision_config (`FineViTConfig` or `dict`, *optional*):
            The encoder. Defaults to FineViT-full (FineViT paper, section on the architecture).
        text_config (`PreTrainedConfig` or `dict`, *optional*):
            Any causal language model of transformers (`qwen3`, `qwen2`, `llama`, ...). Defaults to `Qwen3Config()`.
        image_token_id (`int`, *optional*, defaults to 151655):
            The placeholder each merged image patch takes the place of; Qwen's `<|image_pad|>`.
        vision_start_token_id (`int`, *optional*, defaults to 151652):
            Qwen's `<|vision_start|>`, written before an image.
        vision_end_token_id (`int`, *optional*, defaults to 151653):
            Qwen's `<|vision_end|>`, written after an image.
        projector_hidden_size (`int`, *optional*):
            Width between the projector's two linear layers. The paper says "2-layer MLP" without a width; `None` takes
            the merged width `hidden_size * spatial_merge_size**2`, as Qwen2.5-VL's merger does: its weights fit.
        projector_hidden_act (`str`, *optional*, defaults to `"gelu"`):
            Activation between them (Qwen2.5-VL's merger, LLaVA-1.5).
        projector_bias (`bool`, *optional*, defaults to `True`):
            Whether both linear layers have a bias (Qwen2.5-VL's merger).
        tie_word_embeddings (`bool`, *optional*, defaults to `True`):
            Whether the language model's head shares its embedding; Qwen3 0.6B to 4B do, 8B and above do not.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of the projector's initial weights (transformers' default).

    Raises:
        ValueError: a language model that scales or caps its logits (Gemma 2, Cohere, Granite, Falcon-H1), or something
            else than a language model.
    """

    model_type = "finevit_vl"
    # `sub_configs` is what transformers up to 5.18 reads and what later versions still honour.
    sub_configs = {"vision_config": FineViTConfig, "text_config": AutoConfig}  # noqa: RUF012

    # `dict | PreTrainedConfig | None` before, a config after `__post_init__`.
    vision_config: Any = None
    text_config: Any = None
    image_token_id: int = 151_655
    vision_start_token_id: int = 151_652
    vision_end_token_id: int = 151_653
    projector_hidden_size: int | None = None
    projector_hidden_act: str = "gelu"
    projector_bias: bool = True
    tie_word_embeddings: bool = True
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        if not isinstance(self.vision_config, PreTrainedConfig):
            self.vision_config = FineViTConfig(**(self.vision_config or {}))
        if not isinstance(self.text_config, PreTrainedConfig):
            text_config = dict(self.text_config or {})
            self.text_config = AutoConfig.for_model(text_config.pop("model_type", "qwen3"), **text_config)
        if not hasattr(self.text_config, "hidden_size"):
            raise ValueError(
                f"{self.text_config.model_type} is no language model but one of several parts: its config has no "
                "hidden_size. Give the language model in it, such as Qwen, Llama, Mistral or Gemma 3."
            )
        if any(getattr(self.text_config, name, plain) != plain for name, plain in _OF_LOGITS.items()):
            raise ValueError(SCALES.format(self.text_config.model_type))
        if self.projector_hidden_size is None:
            self.projector_hidden_size = self.merged_hidden_size
        super().__post_init__(**kwargs)

    @property
    def merged_hidden_size(self) -> int:
        """Width of one merged patch: the features of `spatial_merge_size**2` neighbours side by side."""
        return self.vision_config.hidden_size * self.vision_config.spatial_merge_size**2

    @classmethod
    def from_size(
        cls, size: str, tokenizer: PreTrainedTokenizerBase | None = None, **overrides: Any
    ) -> "FineViTVLConfig":
        """One dial for encoder and language model: `nano`, `tiny`, `small`, `base`, `large` (Qwen3-0.6B) or `full`
        (Qwen3-1.7B).

        Args:
            size: the size of both towers.
            tokenizer: gives the vocabulary size and the image token ids. Without it, `large` and `full` assume Qwen3's
                vocabulary and the others `build_qwen_tokenizer(8192)`.
            overrides: fields of this config; `vision_config` and `text_config` as dicts of fields to change.

        Raises:
            ValueError: an unknown size.
        """
        if size not in _TEXT_SIZES:
            raise ValueError(f"Unknown size {size!r}: expected one of {', '.join(_TEXT_SIZES)}.")
        text = {**_text_fields(size), **_vocab_fields(size, tokenizer), **overrides.pop("text_config", {})}
        vision = FineViTConfig.from_size(size, **overrides.pop("vision_config", {}))
        token_ids = {
            f"{name}_id": _token_id(token, size, tokenizer)
            for name, token in {
                "image_token": IMAGE_TOKEN,
                "vision_start_token": VISION_START_TOKEN,
                "vision_end_token": VISION_END_TOKEN,
            }.items()
        }
        fields: dict[str, Any] = {"vision_config": vision, "text_config": text, **token_ids, **overrides}
        return cls(**fields)


def _text_fields(size: str) -> dict[str, Any]:
    fields = _TEXT_SIZES[size]
    published = size in ("large", "full")
    return {
        "model_type": "qwen3",
        **fields,
        "num_key_value_heads": 8 if published else fields["num_attention_heads"] // 2,
        "intermediate_size": 3 * fields["hidden_size"],
        "max_position_embeddings": 40_960 if published else 8192,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6 if published else 1e4},
        "tie_word_embeddings": True,
    }


def num_ranks(size: str) -> int:
    """Merge ranks of Qwen's tokenizer that a model of this size has, unless it is given a tokenizer of its own."""
    return QWEN_NUM_RANKS if size in ("large", "full") else _SMALL_VOCAB_RANKS


def _vocab_fields(size: str, tokenizer: PreTrainedTokenizerBase | None) -> dict[str, int | None]:
    if tokenizer is not None:
        return {
            "vocab_size": len(tokenizer),
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
        }
    ranks = num_ranks(size)
    entries = ranks + len(SPECIAL_TOKENS) + len(PLAIN_ADDED_TOKENS)
    return {
        "vocab_size": _QWEN3_EMBEDDING_ROWS if ranks == QWEN_NUM_RANKS else entries,
        "pad_token_id": ranks,
        "bos_token_id": None,
        "eos_token_id": ranks + SPECIAL_TOKENS.index("<|im_end|>"),
    }


def _token_id(token: str, size: str, tokenizer: PreTrainedTokenizerBase | None) -> int:
    if tokenizer is None:
        return num_ranks(size) + SPECIAL_TOKENS.index(token)
    token_id = tokenizer.get_vocab().get(token)
    if token_id is None:
        raise ValueError(
            f"The tokenizer has no {token}: add the image tokens first with finevit_vl.tokenizer.add_missing_tokens."
        )
    return token_id
