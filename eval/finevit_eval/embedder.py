"""Embeddings of pictures by any model of Transformers that sees, and of texts by those that read as well.

Shape suffixes: T patches of a picture, C channels of the encoder.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch.nn.functional import normalize
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoProcessor

from finevit_eval.model_kinds import DUAL, ENCODER, model_kind
from finevit_vl.answering import usable_device
from finevit_vl.configuration_finevit_vl import FineViTVLConfig
from finevit_vl.processing_finevit_vl import set_pixel_budget
from modeling_finevit import FineViTModel


class Embedder:
    """A model that gives one vector of a picture, with its processor.

    Of models of pictures and texts (FineViT-Dual, SigLIP, CLIP, ...) it is the embedding that they compare with texts.
    Of bare encoders (FineViT, DINO, the vision towers of SigLIP and CLIP, ...) it is their `pooler_output`: FineViT's
    is the mean of a picture's patch features, DINO's and CLIP's that of the class token, SigLIP's that of its pooling.

    Texts are lower-cased and padded to the length that the model was trained with: so were SigLIP's, whose embedding
    is that of the last position.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model.eval(), processor
        self.reads_text = _reads_text(model)
        self.text_length = getattr(model.config.text_config, "max_position_embeddings", None) if self.reads_text else 0

    @classmethod
    def from_pretrained(
        cls, folder: str, device: str | None = None, dtype: str = "auto", max_pixels: int | None = None
    ) -> "Embedder":
        """Loads model and processor from a folder, or by a Hub id; of a FineViT-VL its encoder.

        Raises:
            ValueError: it cannot be loaded, is another kind of model, has no pixel budget that could be changed, or
                there is no such device.
        """
        device = usable_device(device)
        try:
            model = _encoder_class(folder).from_pretrained(folder, dtype=dtype).to(device)
            processor = (AutoProcessor if _reads_text(model) else AutoImageProcessor).from_pretrained(folder)
        except OSError as error:
            raise ValueError(f"{folder} cannot be loaded: {error}") from error
        embedder = cls(model, processor)
        if max_pixels is not None:
            if "longest_edge" not in embedder.size:
                raise ValueError(f"{folder} resizes every picture to {embedder.size}; leave max_pixels out.")
            set_pixel_budget(embedder.image_processor, max_pixels=max_pixels)
        return embedder

    @property
    def image_processor(self) -> Any:
        return getattr(self.processor, "image_processor", self.processor)

    @property
    def size(self) -> dict[str, Any]:
        """What the image processor brings pictures to; SigLIP 2 of any aspect knows patches alone."""
        processor = self.image_processor
        return dict(processor.size or {"max_num_patches": processor.max_num_patches})

    @property
    def facts(self) -> dict[str, Any]:
        """For the receipt: "max_pixels" (of a processor without such a budget its size), "device" and "dtype"."""
        return {
            "max_pixels": self.size.get("longest_edge", str(self.size)),
            "device": str(self.model.device),
            "dtype": str(self.model.dtype).removeprefix("torch."),
        }

    def images(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Embeddings of RGB pictures of any sizes: `(num_images, width)`, float32, norm 1, on the model's device.

        Raises:
            ValueError: the model gives no vector of a picture.
        """
        return self.encode(self.prepare(images))

    def prepare(self, images: Sequence[Image.Image]) -> Mapping[str, torch.Tensor]:
        """What the model takes for RGB pictures, on the CPU; several threads may do so at once. What was prepared of
        single pictures, one behind the other, is what is prepared of all of them.
        """
        return self.image_processor(images=list(images), return_tensors="pt")

    @torch.inference_mode()
    def encode(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Embeddings of what `prepare` gave, as `images` gives them."""
        outputs = self._see(inputs)
        pooled = getattr(outputs, "pooler_output", outputs)
        if not isinstance(pooled, torch.Tensor):
            raise ValueError(f"{type(self.model).__name__} gives no vector of a picture (pooler_output).")
        return normalize(pooled.float(), dim=-1)

    @torch.inference_mode()
    def patches(self, images: Sequence[Image.Image]) -> list[torch.Tensor]:
        """`last_hidden_state` of RGB pictures of any sizes, without padding: `(T, C)` each, in the model's dtype. A
        class token and registers stay in it.

        Raises:
            ValueError: the model gives none.
        """
        inputs = self.prepare(images)
        hidden = getattr(self._see(inputs), "last_hidden_state", None)
        if hidden is None:
            raise ValueError(f"{type(self.model).__name__} gives no features of patches (last_hidden_state).")
        if "image_grid_thw" in inputs:
            return list(hidden.split(inputs["image_grid_thw"].prod(-1).tolist()))
        mask = inputs.get("pixel_attention_mask")
        if mask is None:
            return list(hidden)
        return [rows_TC[own.bool()] for rows_TC, own in zip(hidden, mask.to(hidden.device), strict=True)]

    @property
    def reads_regions(self) -> bool:
        """Has the model a way of its own to embed boxes (FineViT-Dual's has)?"""
        return hasattr(self.model, "get_region_features")

    @torch.inference_mode()
    def regions(
        self, inputs: Mapping[str, torch.Tensor], boxes: torch.Tensor, image_index: torch.Tensor, sizes: torch.Tensor
    ) -> torch.Tensor:
        """Embeddings of boxes in what `prepare` gave: `(num_boxes, width)`, float32, norm 1, on the model's device.

        Args:
            boxes, image_index, sizes: as for [`~modeling_finevit.regions.region_features`]; pixels of the originals.
        """
        hidden = self._see(inputs).last_hidden_state
        grid = inputs["image_grid_thw"].to(hidden.device)
        return normalize(self.model.get_region_features(hidden, grid, boxes, image_index, sizes).float(), dim=-1)

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Embeddings of texts: `(num_texts, width)`, float32, norm 1, on the model's device.

        Raises:
            ValueError: the model reads none.
        """
        if not self.reads_text:
            raise ValueError(f"{type(self.model).__name__} reads no text; take a model of pictures and texts.")
        inputs = self.processor(
            text=[text.lower() for text in texts],
            padding="max_length",
            max_length=self.text_length,
            truncation=True,
            return_tensors="pt",
        )
        outputs = self.model.get_text_features(**self._taken(self.model.get_text_features, inputs))
        return normalize(getattr(outputs, "pooler_output", outputs).float(), dim=-1)

    def _see(self, inputs: Mapping[str, torch.Tensor]) -> Any:
        function = self.model.get_image_features if self.reads_text else self.model.forward
        return function(**self._taken(function, inputs))

    def _taken(self, function: Any, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What the function takes by name, on the model's device, pictures in its own dtype."""
        known = inspect.signature(function).parameters
        return {
            name: value.to(self.model.device, self.model.dtype if value.is_floating_point() else None)
            for name, value in inputs.items()
            if name in known
        }


def _encoder_class(folder: str) -> Any:
    """Raises ValueError of a vision-language model that is not ours: nothing says where its encoder lies."""
    if isinstance(AutoConfig.from_pretrained(folder), FineViTVLConfig):
        return FineViTModel
    if model_kind(folder) not in (ENCODER, DUAL):
        raise ValueError(f"{folder} holds neither {ENCODER} nor {DUAL}, nor a FineViT-VL, whose encoder would do.")
    return AutoModel


def _reads_text(model: Any) -> bool:
    return all(hasattr(model, name) for name in ("get_image_features", "get_text_features"))
