# Copyright 2026 The FineViT project. Licensed under the Apache License, Version 2.0.
"""FineViT's image processor on torchvision."""

from typing import Any

import torch
from transformers.image_processing_backends import TorchvisionBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import SizeDict
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor

from .image_inputs import fit_size
from .image_processing_pil_finevit import FineViTImageProcessing, scaling_of
from .patches import pack_images, scale_patches


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
        if images and kwargs["temporal_patch_size"] == 1 and images[0].device.type == "cpu":
            return self._one_by_one(images, **kwargs)
        if images:
            return super()._preprocess(images, **kwargs)
        patch_dim = 3 * kwargs["temporal_patch_size"] * kwargs["patch_size"] ** 2
        data = {"pixel_values": torch.zeros(0, patch_dim), "image_grid_thw": torch.zeros(0, 3, dtype=torch.long)}
        return BatchFeature(data=data, tensor_type=kwargs.get("return_tensors"))

    def _one_by_one(self, images: list[torch.Tensor], **kwargs: Any) -> BatchFeature:
        """The base class's result, bit by bit, with less work on a CPU: patches are cut from bytes, and become floats
        where they are to lie, so that no picture is copied as floats.
        """
        patch_size, merge_size = kwargs["patch_size"], kwargs["merge_size"]
        if kwargs["do_resize"]:
            fitted = (kwargs["size"], kwargs["resample"], patch_size * merge_size)
            images = [self.resize(image[None], *fitted)[0] for image in images]
        packed = [pack_images(image[None], patch_size, merge_size) for image in images]
        lengths = [len(patches) for patches, _ in packed]
        scaling = scaling_of(kwargs)
        pixel_values = torch.empty(
            sum(lengths), 3 * patch_size**2, dtype=torch.float32 if any(scaling) else packed[0][0].dtype
        )
        for values, (patches, _) in zip(pixel_values.split(lengths), packed, strict=True):
            if any(scaling):
                scale_patches(patches, *scaling, out=values)
            else:
                values.copy_(patches)
        data = {"pixel_values": pixel_values, "image_grid_thw": torch.cat([grid for _, grid in packed])}
        return BatchFeature(data=data, tensor_type=kwargs["return_tensors"])


__all__ = ["FineViTImageProcessor"]
