# Copyright 2026 The FineViT project. Licensed under the Apache License, Version 2.0.
"""FineViT-VL: FineViT, a projector and any causal language model. Importing this registers it with transformers."""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
)

from finevit_vl.assembly import generation_config_for
from finevit_vl.configuration_finevit_vl import FineViTVLConfig
from finevit_vl.losses import IGNORE_INDEX, supervised_positions
from finevit_vl.modeling_finevit_vl import (
    FineViTVLForConditionalGeneration,
    FineViTVLModel,
    FineViTVLPreTrainedModel,
)
from finevit_vl.packed_attention import register_packed_attention
from finevit_vl.processing_finevit_vl import FineViTVLProcessor
from finevit_vl.tokenizer import build_qwen_tokenizer
from modeling_finevit import expose_in_transformers, name_as_vision_language_model

__all__ = [
    "IGNORE_INDEX",
    "FineViTVLConfig",
    "FineViTVLForConditionalGeneration",
    "FineViTVLModel",
    "FineViTVLPreTrainedModel",
    "FineViTVLProcessor",
    "build_qwen_tokenizer",
    "generation_config_for",
    "supervised_positions",
]


def _register() -> None:
    AutoConfig.register("finevit_vl", FineViTVLConfig, exist_ok=True)
    AutoModel.register(FineViTVLConfig, FineViTVLModel, exist_ok=True)
    AutoModelForImageTextToText.register(FineViTVLConfig, FineViTVLForConditionalGeneration, exist_ok=True)
    AutoModelForMultimodalLM.register(FineViTVLConfig, FineViTVLForConditionalGeneration, exist_ok=True)
    AutoProcessor.register(FineViTVLConfig, FineViTVLProcessor, exist_ok=True)
    register_packed_attention()
    expose_in_transformers(FineViTVLConfig, FineViTVLModel, FineViTVLForConditionalGeneration, FineViTVLProcessor)
    name_as_vision_language_model("finevit_vl", FineViTVLForConditionalGeneration.__name__)


_register()
