# Copyright 2026 The FineViT project. Licensed under the Apache License, Version 2.0.
"""FineViT's image processor on torchvision."""

from typing import Any

import torch
from transformers.image_processing_backends import TorchvisionBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import SizeDict
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor

from .image_inputs import fit_size
from .image_processing_pil_finevit import FineViTImageProcessing


class FineViTImageProcessor(FineViTImageProcessing, Qwen2VLImageProcessor):  # ty: ignore[incompatible-method-override]
    r"""Images to packed patches on torchvision, images of equal size together, on `device` if given.

    Returns and raises what [`FineViTImageProcessorPil`] does.
    """

    def _to_backend(self, rgb: torch.Tensor, device: Any) -> torch.Tensor:
        return rgb.contiguous() if device is None else rgb.to(device).contiguous()

    def resize(self, images: torch.Tensor, size: Any, resample: Any, factor: int, **kwargs: Any) -> torch.Tensor:
        fitted = fit_size(*images.shape[-2:], factor, self.patch_size, size.shortest_edge, size.longest_edge)
        if fitted == tuple(images.shape[-2:]):
            return images
        return TorchvisionBackend.resize(self, images, SizeDict(height=fitted[0], width=fitted[1]), resample)

    def _preprocess(self, images: list[torch.Tensor], **kwargs: Any) -> BatchFeature:  # ty: ignore[incompatible-method-override]
        if images:
            return super()._preprocess(images, **kwargs)
        patch_dim = 3 * kwargs["temporal_patch_size"] * kwargs["patch_size"] ** 2
        data = {"pixel_values": torch.zeros(0, patch_dim), "image_grid_thw": torch.zeros(0, 3, dtype=torch.long)}
        return BatchFeature(data=data, tensor_type=kwargs.get("return_tensors"))


__all__ = ["FineViTImageProcessor"]
