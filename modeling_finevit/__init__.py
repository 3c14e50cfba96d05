# Copyright 2026 The FineViT project. Licensed under the Apache License, Version 2.0.
"""FineViT, the encoder, as Transformers models. Importing this package registers it with the Auto classes."""

import transformers
from transformers import AutoConfig, AutoImageProcessor, AutoModel
from transformers.utils import is_torchvision_available

from .configuration_finevit import FINEVIT_SIZES, FineViTConfig
from .image_processing_pil_finevit import FineViTImageProcessorPil
from .modeling_finevit import FineViTModel, FineViTPreTrainedModel

_image_processors = {"pil": FineViTImageProcessorPil}
if is_torchvision_available():
    from .image_processing_finevit import FineViTImageProcessor

    _image_processors["torchvision"] = FineViTImageProcessor

AutoConfig.register(FineViTConfig.model_type, FineViTConfig, exist_ok=True)
AutoModel.register(FineViTConfig, FineViTModel, exist_ok=True)
AutoImageProcessor.register(FineViTConfig, image_processor_classes=_image_processors, exist_ok=True)

# TRL (models by path, DPO's reference model) and `transformers serve` look classes up by name in this namespace.
for _class in (FineViTConfig, FineViTModel, *_image_processors.values()):
    setattr(transformers, _class.__name__, _class)

__all__ = [
    "FINEVIT_SIZES",
    "FineViTConfig",
    "FineViTImageProcessorPil",
    "FineViTModel",
    "FineViTPreTrainedModel",
]
if is_torchvision_available():
    __all__ += ["FineViTImageProcessor"]
