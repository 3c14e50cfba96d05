# Copyright 2026 The FineViT project. Licensed under the Apache License, Version 2.0.
"""FineViT's image processor on Pillow and NumPy; needs no torchvision."""

from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import SizeDict
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
    Qwen2VLImageProcessorKwargs,
    Qwen2VLImageProcessorPil,
)

from .image_inputs import fit_size, flatten_images, image_name, open_image, to_rgb
from .patches import scale_patches


class FineViTImageProcessorKwargs(Qwen2VLImageProcessorKwargs, total=False):
    r"""
    max_image_pixels (`int`, *optional*, defaults to 178956970):
        Images with more pixels are refused before they are decoded; the default is where Pillow raises
        `DecompressionBombError`.
    """

    max_image_pixels: int


def scaling_of(kwargs: Mapping[str, Any]) -> tuple[Any, Any, float | None]:
    """Mean, standard deviation and factor that a processor's settings ask for, each None if not; for
    [`scale_patches`].
    """
    mean_and_std = (kwargs["image_mean"], kwargs["image_std"]) if kwargs["do_normalize"] else (None, None)
    return (*mean_and_std, kwargs["rescale_factor"] if kwargs["do_rescale"] else None)


class FineViTImageProcessing:
    """What both backends share: inputs, errors that name the image, and sizes.

    `size` holds areas in pixels, `{"shortest_edge": min_pixels, "longest_edge": max_pixels}`, as in the Qwen family;
    the default maximum is 1008² (the paper trains its last stage at about 1000²), the minimum Qwen2-VL's 56².
    Mean and standard deviation are OpenAI CLIP's, as in Qwen2.5-VL, so that converted weights see what they know.

    `open_source(source, name)` opens what is given as a string or path, for the chat template too. Transformers' own
    loaders drop transparency, which leaves black; ours keeps it for [`to_rgb`], which lays it over white.
    """

    open_source: Callable[[str | Path, str], Any] = staticmethod(open_image)

    patch_size: int
    merge_size: int
    size = {"shortest_edge": 56 * 56, "longest_edge": 1008 * 1008}  # noqa: RUF012
    temporal_patch_size = 1
    max_image_pixels = 178_956_970
    valid_kwargs = FineViTImageProcessorKwargs

    def __init__(self, **kwargs: Any) -> None:
        kwargs["size"] = dict(self.size) | dict(kwargs.get("size") or {})
        super().__init__(**kwargs)

    def pixel_budget(
        self, size: Any = None, min_pixels: int | None = None, max_pixels: int | None = None
    ) -> dict[str, int]:
        """`{"shortest_edge": min_pixels, "longest_edge": max_pixels}`, areas in pixels.

        Each is the processor's own unless it is given, in `size` or by its other name.

        Raises:
            ValueError: `size` holds something else, or the smallest area is above the largest.
        """
        edges = {"shortest_edge": min_pixels, "longest_edge": max_pixels}
        areas = dict(self.size)
        for given in (dict(size or {}), edges):
            areas |= {key: value for key, value in given.items() if value is not None}
        unknown = sorted(key for key in areas if key not in edges and areas[key] is not None)
        if unknown or areas["shortest_edge"] > areas["longest_edge"]:
            raise ValueError(
                "size must hold areas in pixels, {'shortest_edge': min_pixels, 'longest_edge': max_pixels} with "
                f"min_pixels <= max_pixels; got {areas}."
            )
        return {key: areas[key] for key in edges}

    def _standardize_kwargs(
        self, size: Any = None, min_pixels: int | None = None, max_pixels: int | None = None, **kwargs: Any
    ) -> dict:
        areas = self.pixel_budget(size, min_pixels, max_pixels)
        return super()._standardize_kwargs(size=SizeDict(**areas), **kwargs)  # ty: ignore

    def _to_backend(self, rgb: torch.Tensor, device: Any) -> Any:
        """`(3, H, W)` uint8 as the backend wants it."""
        raise NotImplementedError

    def fetch_images(self, image_url_or_urls: Any) -> Any:
        """Opens every path, URL, data URI and base64 string in (nested lists of) images; the rest stays as it is.

        Raises:
            ValueError: a picture cannot be opened; the message names it.
        """
        total, places = sum(1 for _ in flatten_images(image_url_or_urls)), count()

        def fetched(item: Any) -> Any:
            if isinstance(item, list | tuple):
                return [fetched(each) for each in item]
            place = next(places)
            if isinstance(item, str | Path):
                return self.open_source(item, image_name(item, place, total))
            return item

        return fetched(image_url_or_urls)

    def _prepare_image_like_inputs(self, images: Any, *args: Any, **kwargs: Any) -> list[Any]:
        flat = list(flatten_images(self.fetch_images(images)))
        size, patch_size = kwargs["size"], kwargs["patch_size"]
        prepared = []
        for index, image in enumerate(flat):
            name = image_name(image, index, len(flat))
            rgb = to_rgb(image, name, kwargs["max_image_pixels"], kwargs.get("input_data_format"))
            unit = patch_size * kwargs["merge_size"]
            fitted = fit_size(*rgb.shape[-2:], unit, patch_size, size.shortest_edge, size.longest_edge, name)
            if not kwargs["do_resize"] and fitted != tuple(rgb.shape[-2:]):
                raise ValueError(
                    f"{name}: with do_resize=False the sides must be multiples of {unit} pixels within the pixel "
                    f"budget, got {tuple(rgb.shape[-2:])} (height, width)."
                )
            prepared.append(self._to_backend(rgb, kwargs.get("device")))
        return prepared

    def as_bytes(self, images: Any) -> BatchFeature:
        """What the processor makes of images, with patches of bytes, a quarter of the memory; `from_bytes` finishes
        them, on any device.
        """
        made = self(images, do_rescale=False, do_normalize=False, return_tensors="pt")  # ty: ignore[not-callable]
        made["pixel_values"] = made["pixel_values"].to(torch.uint8)  # whole numbers; the PIL backend has floats
        return made

    def from_bytes(self, patches: torch.Tensor) -> torch.Tensor:
        """`pixel_values` `(sum_patches, 3 * 14 * 14)` float32 of such patches."""
        return scale_patches(patches, *scaling_of(vars(self)))

    def get_number_of_image_patches(self, height: int, width: int, images_kwargs: dict | None = None) -> int:
        """Number of patches of an image of `height` x `width` pixels (4 per token after the 2x2 merge).

        `images_kwargs` overrides the processor's own `size` (or `min_pixels`, `max_pixels`), `patch_size`,
        `merge_size`.
        """
        images_kwargs = images_kwargs or {}
        patch_size = images_kwargs.get("patch_size", self.patch_size)
        rows, columns = self.resized_size(height, width, images_kwargs)
        return (rows // patch_size) * (columns // patch_size)

    def resized_size(self, height: int, width: int, images_kwargs: dict | None = None) -> tuple[int, int]:
        """Height and width in pixels to which an image is resized; `images_kwargs` as in
        `get_number_of_image_patches`.
        """
        images_kwargs = images_kwargs or {}
        areas = self.pixel_budget(*(images_kwargs.get(name) for name in ("size", "min_pixels", "max_pixels")))
        patch_size = images_kwargs.get("patch_size", self.patch_size)
        unit = patch_size * images_kwargs.get("merge_size", self.merge_size)
        return fit_size(height, width, unit, patch_size, areas["shortest_edge"], areas["longest_edge"])


class FineViTImageProcessorPil(FineViTImageProcessing, Qwen2VLImageProcessorPil):  # ty: ignore[incompatible-method-override]
    r"""Images to packed patches on Pillow and NumPy.

    Returns `pixel_values` `(sum_patches, 3 * 14 * 14)` float32 in 2x2-merge order and `image_grid_thw`
    `(num_images, 3)` int64. See [`FineViTImageProcessing`] for the defaults.

    Raises:
        ValueError: an image is empty, unreadable, too thin, too large or has an aspect ratio above 200.
    """

    def _to_backend(self, rgb: torch.Tensor, device: Any) -> np.ndarray:
        return rgb.cpu().numpy()

    def resize(self, image: np.ndarray, size: Any, resample: Any, factor: int, **kwargs: Any) -> np.ndarray:
        fitted = fit_size(*image.shape[-2:], factor, self.patch_size, size.shortest_edge, size.longest_edge)
        if fitted == image.shape[-2:]:
            return image
        return PilBackend.resize(self, image, SizeDict(height=fitted[0], width=fitted[1]), resample)

    def _preprocess(self, images: list[np.ndarray], **kwargs: Any) -> BatchFeature:  # ty: ignore[incompatible-method-override]
        if images:
            return super()._preprocess(images, **kwargs)
        patch_dim = 3 * kwargs["temporal_patch_size"] * kwargs["patch_size"] ** 2
        data = {"pixel_values": np.zeros((0, patch_dim), np.float32), "image_grid_thw": np.zeros((0, 3), np.int64)}
        return BatchFeature(data=data, tensor_type=kwargs.get("return_tensors"))


__all__ = ["FineViTImageProcessorPil"]
