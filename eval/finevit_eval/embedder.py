"""Embeddings of pictures and texts by any model of Transformers that gives both: FineViT-Dual, SigLIP, CLIP, ..."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch.nn.functional import normalize
from transformers import AutoModel, AutoProcessor

import modeling_finevit  # noqa: F401  (registers the classes with Auto*)
from finevit_vl.answering import usable_device
from finevit_vl.processing_finevit_vl import set_pixel_budget


class Embedder:
    """A model of pictures and texts with its processor.

    Texts are lower-cased and padded to the length that the model was trained with: so were SigLIP's, whose embedding
    is that of the last position.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model.eval(), processor
        self.text_length = getattr(model.config.text_config, "max_position_embeddings", None)

    @classmethod
    def from_pretrained(
        cls, folder: str, device: str | None = None, dtype: str = "auto", max_pixels: int | None = None
    ) -> "Embedder":
        """Loads model and processor from a folder, or by a Hub id.

        Raises:
            ValueError: it cannot be loaded, gives no features of pictures and texts, has no pixel budget that could
                be changed, or there is no such device.
        """
        device = usable_device(device)
        try:
            model = AutoModel.from_pretrained(folder, dtype=dtype).to(device)
            processor = AutoProcessor.from_pretrained(folder)
        except OSError as error:
            raise ValueError(f"{folder} cannot be loaded: {error}") from error
        if not all(hasattr(model, name) for name in ("get_image_features", "get_text_features")):
            raise ValueError(f"{folder} holds a {type(model).__name__}; expected a model of pictures and texts.")
        if max_pixels is not None:
            size = dict(processor.image_processor.size)
            if "longest_edge" not in size:
                raise ValueError(f"{folder} resizes every picture to {size}; leave max_pixels out.")
            set_pixel_budget(processor.image_processor, max_pixels=max_pixels)
        return cls(model, processor)

    def images(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Embeddings of RGB pictures of any sizes: `(num_images, width)`, float32, norm 1, on the model's device."""
        return self.encode(self.prepare(images))

    def prepare(self, images: Sequence[Image.Image]) -> Mapping[str, torch.Tensor]:
        """What the model takes for RGB pictures, on the CPU; several threads may do so at once. What was prepared of
        single pictures, one behind the other, is what is prepared of all of them.
        """
        return self.processor(images=list(images), return_tensors="pt")

    @torch.inference_mode()
    def encode(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Embeddings of what `prepare` gave, as `images` gives them."""
        return _unit(self.model.get_image_features(**self._taken(self.model.get_image_features, inputs)))

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Embeddings of texts: `(num_texts, width)`, float32, norm 1, on the model's device."""
        inputs = self.processor(
            text=[text.lower() for text in texts],
            padding="max_length",
            max_length=self.text_length,
            truncation=True,
            return_tensors="pt",
        )
        return _unit(self.model.get_text_features(**self._taken(self.model.get_text_features, inputs)))

    def _taken(self, function: Any, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What the function takes by name, on the model's device, pictures in its own dtype."""
        known = inspect.signature(function).parameters
        return {
            name: value.to(self.model.device, self.model.dtype if value.is_floating_point() else None)
            for name, value in inputs.items()
            if name in known
        }


def _unit(features: Any) -> torch.Tensor:
    """Embeddings of norm 1 from what transformers 5 gives, and from the bare tensor of other models."""
    return normalize(getattr(features, "pooler_output", features).float(), dim=-1)
