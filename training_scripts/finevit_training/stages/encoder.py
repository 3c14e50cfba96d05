"""Encoders and their image processors, as the stages before FineViT-VL start from them."""

from typing import Any

from transformers import AutoImageProcessor
from transformers.utils import is_torchvision_available

import modeling_finevit
from finevit_training.stages.folders import checked_kind
from finevit_vl.processing_finevit_vl import set_pixel_budget


def new_image_processor() -> Any:
    """FineViT's own, on torchvision where that is installed."""
    name = "FineViTImageProcessor" if is_torchvision_available() else "FineViTImageProcessorPil"
    return getattr(modeling_finevit, name)()


def build_image_processor(model: str | None, min_pixels: int | None, max_pixels: int | None) -> Any:
    """Of an encoder, or a new one, with the picture sizes of the recipe.

    Raises:
        ValueError: `model` is no FineViT, or holds no image processor.
    """
    image_processor = new_image_processor()
    if model:
        checked_kind(model, "model", ("finevit",))
        try:
            image_processor = AutoImageProcessor.from_pretrained(model)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"`model` is {model!r}, which holds no image processor; write the one that it was trained with, such "
                f'as modeling_finevit.FineViTImageProcessor().save_pretrained("{model}")'
            ) from error
    set_pixel_budget(image_processor, min_pixels, max_pixels)
    return image_processor
