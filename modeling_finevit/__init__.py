# Copyright 2026 The FineViT project. Licensed under the Apache License, Version 2.0.
"""FineViT, the encoder, as Transformers models. Importing this package registers it with the Auto classes."""

from transformers import (
    AttentionInterface,
    AutoConfig,
    AutoModel,
    AutoModelForMaskedImageModeling,
    AutoModelForZeroShotImageClassification,
    AutoProcessor,
)
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

# From its own module: in front of it Transformers 5.17 puts a dummy where torchvision is missing.
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.utils import is_torchvision_available

from .attention import torch_varlen_attention_forward
from .configuration_finevit import FINEVIT_SIZES, FineViTConfig
from .image_processing_pil_finevit import FineViTImageProcessorPil
from .modeling_finevit import FineViTModel, FineViTPreTrainedModel
from .pretraining.configuration_dual import FineViTDualConfig
from .pretraining.dual import FineViTDualModel
from .pretraining.masked import FineViTForMaskedImageModeling
from .pretraining.processing_dual import FineViTDualProcessor
from .regions import region_features
from .registration import expose_in_transformers, name_as_vision_language_model

_image_processors: dict[str, type] = {"pil": FineViTImageProcessorPil}
if is_torchvision_available():
    from .image_processing_finevit import FineViTImageProcessor

    _image_processors["torchvision"] = FineViTImageProcessor

AutoConfig.register(FineViTConfig.model_type, FineViTConfig, exist_ok=True)
AutoModel.register(FineViTConfig, FineViTModel, exist_ok=True)
AutoModelForMaskedImageModeling.register(FineViTConfig, FineViTForMaskedImageModeling, exist_ok=True)
AutoImageProcessor.register(FineViTConfig, image_processor_classes=_image_processors, exist_ok=True)

AutoConfig.register(FineViTDualConfig.model_type, FineViTDualConfig, exist_ok=True)
AutoModel.register(FineViTDualConfig, FineViTDualModel, exist_ok=True)
AutoModelForZeroShotImageClassification.register(FineViTDualConfig, FineViTDualModel, exist_ok=True)
AutoProcessor.register(FineViTDualConfig, FineViTDualProcessor, exist_ok=True)

# With the mask of sdpa, so that a text model which gets this name for its whole VLM is masked as it should be.
AttentionInterface.register("torch_varlen", torch_varlen_attention_forward)
AttentionMaskInterface.register("torch_varlen", sdpa_mask)

expose_in_transformers(FineViTConfig, FineViTModel, FineViTForMaskedImageModeling, *_image_processors.values())
expose_in_transformers(FineViTDualConfig, FineViTDualModel, FineViTDualProcessor)

__all__ = [
    "FINEVIT_SIZES",
    "FineViTConfig",
    "FineViTDualConfig",
    "FineViTDualModel",
    "FineViTDualProcessor",
    "FineViTForMaskedImageModeling",
    "FineViTImageProcessorPil",
    "FineViTModel",
    "FineViTPreTrainedModel",
    "expose_in_transformers",
    "name_as_vision_language_model",
    "region_features",
]
if is_torchvision_available():
    __all__ += ["FineViTImageProcessor"]
