"""Encoders and their image processors, as the stages before FineViT-VL start from them."""

from collections.abc import Mapping
from typing import Any

from transformers import AutoImageProcessor
from transformers.utils import is_torchvision_available

import modeling_finevit
from finevit_training.stages.folders import checked_kind
from finevit_vl.processing_finevit_vl import set_pixel_budget
from modeling_finevit import FineViTConfig


def new_image_processor(size: str, vision_config: Mapping[str, Any] | None) -> Any:
    """FineViT's own for an encoder from scratch, on torchvision where that is installed.

    Args:
        size, vision_config: of a recipe.

    Raises:
        ValueError: the encoder is not for RGB.
    """
    config = FineViTConfig.from_size(size, **(vision_config or {}))
    if config.num_channels != 3:
        raise ValueError(f"num_channels in vision_config is {config.num_channels}; expected 3: pictures become RGB")
    name = "FineViTImageProcessor" if is_torchvision_available() else "FineViTImageProcessorPil"
    # The order of the patches is the processor's, and the model takes them to lie in its own.
    return getattr(modeling_finevit, name)(patch_size=config.patch_size, merge_size=config.spatial_merge_size)


def build_image_processor(asked: Any) -> Any:
    """Of an encoder, or a new one, with the picture sizes of the recipe.

    Args:
        asked: a stage's model arguments with `model`, `size`, `vision_config`, `min_pixels` and `max_pixels`.

    Raises:
        ValueError: `model` is no FineViT, or holds no image processor.
    """
    if asked.model:
        model = asked.model
        checked_kind(model, "model", ("finevit",))
        try:
            image_processor = AutoImageProcessor.from_pretrained(model)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"`model` is {model!r}, which holds no image processor; write the one that it was trained with, such "
                f'as modeling_finevit.FineViTImageProcessor().save_pretrained("{model}")'
            ) from error
    else:
        image_processor = new_image_processor(asked.size, asked.vision_config)
    set_pixel_budget(image_processor, asked.min_pixels, asked.max_pixels)
    return image_processor
