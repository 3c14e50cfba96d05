# Copyright 2026 The FineViT project. Licensed under the Apache License, Version 2.0.
"""Stage II: the encoder with attention pooling beside a text tower, trained by pairs; for zero-shot and retrieval."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, can_return_tuple

from ..modeling_finevit import FineViTModel
from ..patches import pack_images
from ..regions import region_features
from .configuration_dual import FineViTDualConfig
from .pooling import FineViTAttentionPooling
from .processing_dual import FineViTDualProcessor
from .sigmoid_loss import pair_logits, sigmoid_loss
from .text_tower import TEXT_MODELS, PositionStretch, TextTower, load_text_tower, padding_mask, to_fixed_length


@dataclass
class FineViTDualOutput(ModelOutput):
    """
    loss (`torch.FloatTensor` of shape `()`, with `return_loss`): the sigmoid loss of this process's pairs.
    logits_per_image (`torch.FloatTensor` of shape `(num_images, num_texts)`): scaled and shifted cosines.
    logits_per_text (`torch.FloatTensor` of shape `(num_texts, num_images)`): the same, transposed.
    image_embeds, text_embeds (`torch.FloatTensor` of shape `(num_images or num_texts, hidden_size)`): of norm 1, in
        float32.
    region_embeds, region_text_embeds (`torch.FloatTensor` of shape `(num_boxes, hidden_size)`, with `regions`): the
        same of regions and their captions.
    logit_scale, logit_bias (`torch.FloatTensor` of shape `(1,)`): logits are scale * cosine + bias.
    vision_model_output, text_model_output (`BaseModelOutputWithPooling`): what the towers gave.
    """

    loss: torch.Tensor | None = None
    logits_per_image: torch.Tensor | None = None
    logits_per_text: torch.Tensor | None = None
    image_embeds: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None
    region_embeds: torch.Tensor | None = None
    region_text_embeds: torch.Tensor | None = None
    logit_scale: torch.Tensor | None = None
    logit_bias: torch.Tensor | None = None
    vision_model_output: BaseModelOutputWithPooling | None = None
    text_model_output: BaseModelOutputWithPooling | None = None

    def to_tuple(self) -> tuple[Any, ...]:
        return tuple(value.to_tuple() if isinstance(value, ModelOutput) else value for value in self.values())


class FineViTDualModel(PreTrainedModel):
    """FineViT and a text tower of SigLIP's kind in one space.

    `vision_model` is the encoder by itself: `FineViTModel.from_pretrained` loads it out of this model's folder.
    """

    config: FineViTDualConfig
    base_model_prefix = "finevit_dual"
    main_input_name = "pixel_values"
    input_modalities = ("image", "text")  # ty: ignore[invalid-assignment]  (as Transformers' own)
    supports_gradient_checkpointing = True
    _no_split_modules = ["FineViTLayer", "Siglip2EncoderLayer", "SiglipEncoderLayer"]  # noqa: RUF012
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: FineViTDualConfig) -> None:
        super().__init__(config)
        self.vision_model = FineViTModel._from_config(config.vision_config)
        self.text_model = TEXT_MODELS[config.text_config.model_type]._from_config(config.text_config)
        self.pooling = FineViTAttentionPooling(config.vision_config, config.num_pooling_queries)
        widths = config.text_config.projection_size, config.vision_config.hidden_size
        self.text_projection = nn.Linear(*widths, bias=False) if config.text_projection else nn.Identity()
        # Not of shape (), which FSDP2 cannot shard.
        self.logit_scale = nn.Parameter(torch.empty(1))
        self.logit_bias = nn.Parameter(torch.empty(1))
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, FineViTAttentionPooling):
            module.reset_parameters()
        if module is self:
            init.constant_(self.logit_scale, self.config.logit_scale_init_value)
            init.constant_(self.logit_bias, self.config.logit_bias_init_value)

    def get_input_embeddings(self) -> nn.Module:
        return self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.text_model.set_input_embeddings(value)

    @classmethod
    def from_vision_text_pretrained(
        cls,
        vision: str | Path | FineViTModel,
        text: str | Path | TextTower,
        processor: FineViTDualProcessor,
        stretch: PositionStretch = "linear",
        **config_overrides: Any,
    ) -> "FineViTDualModel":
        """The two towers joined, with a new pooling, scale and bias.

        Args:
            vision: folder (or Hub id) of a FineViT, of stage I or of a model that holds one, or a live encoder, whose
                weights are taken over, not copied.
            text: folder (or Hub id) of a SigLIP or SigLIP 2, or of its text tower; or a live text tower, likewise.
            processor: says the length of texts, to which the table of positions grows, and the ids of special tokens.
            stretch: how the table grows, see [`~modeling_finevit.pretraining.text_tower.stretch_positions`].
            config_overrides: fields of [`FineViTDualConfig`].

        Raises:
            ValueError: see [`FineViTDualConfig`] and
                [`~modeling_finevit.pretraining.text_tower.load_text_tower`].
        """
        if isinstance(vision, str | Path):
            vision = FineViTModel.from_pretrained(vision)
        tower: Any = text
        if isinstance(text, str | Path):
            tower = load_text_tower(text, processor.text_length, stretch, dtype=vision.dtype)
        for token in ("pad_token_id", "eos_token_id", "bos_token_id"):  # published folders leave defaults here
            setattr(tower.config, token, getattr(processor.tokenizer, token))
        config = FineViTDualConfig(
            vision_config=vision.config, text_config=tower.config, dtype=vision.dtype, **config_overrides
        )
        with torch.device("meta"):
            model: Any = cls(config)
        # What is new gets its first weights while the towers, which have theirs, are out of the way.
        model.vision_model = model.text_model = nn.Identity()
        model.to_empty(device=vision.device).to(vision.dtype).apply(model._init_weights)
        model.vision_model, model.text_model = vision, tower
        return model.eval()

    @can_return_tuple
    def get_image_features(
        self,
        pixel_values: torch.Tensor,
        image_grid_thw: torch.Tensor | np.ndarray | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | BaseModelOutputWithPooling:
        r"""
        Args:
            pixel_values, image_grid_thw: as for [`FineViTModel`].

        Returns:
            `pooler_output` `(num_images, hidden_size)`, one embedding of each image before it is brought to norm 1;
            the rest as [`FineViTModel`] gives it.
        """
        pixel_values, image_grid_thw = self._packed(pixel_values, image_grid_thw)
        outputs = self.vision_model(pixel_values, image_grid_thw, **kwargs)
        outputs.pooler_output = self.pooling(outputs.last_hidden_state, image_grid_thw)
        return outputs

    def get_region_features(
        self,
        hidden_states: torch.Tensor,
        image_grid_thw: torch.Tensor,
        boxes: torch.Tensor,
        image_index: torch.Tensor,
        image_sizes: torch.Tensor,
    ) -> torch.Tensor:
        """One embedding of each box before it is brought to norm 1: the pooling of its mean feature, as if the box
        were an image of one patch (RegionCLIP, FG-CLIP take RoIAlign's features likewise).

        Args:
            hidden_states: `last_hidden_state` of [`~FineViTDualModel.get_image_features`].
            image_grid_thw, boxes, image_index, image_sizes: as for [`region_features`].

        Returns:
            `(num_boxes, hidden_size)`.
        """
        merge_size = self.config.vision_config.spatial_merge_size
        features = region_features(hidden_states, image_grid_thw, boxes, image_index, image_sizes, merge_size)
        return self.pooling(features, image_grid_thw.new_ones(len(boxes), 3))

    @can_return_tuple
    def get_text_features(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | BaseModelOutputWithPooling:
        r"""
        Args:
            input_ids (`torch.LongTensor` of shape `(num_texts, any)`): padded on either side, to any length or not at
                all: they are brought (cut, too) to the fixed length here, so that no embedding depends on it.
            attention_mask (`torch.LongTensor` of the same shape, *optional*): what is padding. Whether the tower sees
                it is `text_padding_mask` of the config; SigLIP's do.

        Returns:
            `pooler_output` `(num_texts, hidden_size)`, one embedding of each text before it is brought to norm 1; the
            rest as the text tower gives it.
        """
        text = self.config.text_config
        input_ids = to_fixed_length(
            input_ids, attention_mask, self.config.text_length, text.pad_token_id, text.eos_token_id
        )
        mask = None
        if self.config.text_padding_mask:
            mask = padding_mask(input_ids, text.pad_token_id, self.text_model.config._attn_implementation)
        outputs = self.text_model(input_ids=input_ids, attention_mask=mask, **kwargs)
        outputs.pooler_output = self.text_projection(outputs.pooler_output)
        return outputs

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor,
        pixel_values: torch.Tensor,
        image_grid_thw: torch.Tensor | np.ndarray | None = None,
        attention_mask: torch.Tensor | None = None,
        return_loss: bool | None = None,
        return_logits: bool = True,
        regions: Mapping[str, torch.Tensor] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | FineViTDualOutput:
        r"""
        Args:
            input_ids, attention_mask: as for [`~FineViTDualModel.get_text_features`].
            pixel_values, image_grid_thw: as for [`FineViTModel`].
            return_loss (`bool`, *optional*): whether image i belongs to text i and the sigmoid loss of these pairs is
                wanted. Training takes the loss over all ranks: `modeling_finevit.pretraining.sigmoid_loss`.
            return_logits (`bool`, defaults to `True`): whether the logits of all images with all texts are wanted,
                whose memory grows with the product of their numbers.
            regions (`dict`, *optional*): `boxes`, `image_index` and `image_sizes` as for [`region_features`] and
                `input_ids` of their captions; embeddings of both are wanted.

        Raises:
            ValueError: inputs that do not fit together.
        """
        pixel_values, image_grid_thw = self._packed(pixel_values, image_grid_thw)
        vision_outputs = self.get_image_features(pixel_values, image_grid_thw, **kwargs)
        text_outputs = self.get_text_features(input_ids, attention_mask, **kwargs)
        image_embeds, text_embeds = (
            F.normalize(outputs.pooler_output.float(), dim=-1) for outputs in (vision_outputs, text_outputs)
        )
        of_regions: tuple[torch.Tensor | None, ...] = (None, None)
        if regions is not None:
            of_regions = self._region_embeds(vision_outputs.last_hidden_state, image_grid_thw, **regions)
        # New tensors and not the parameters, of which FSDP leaves nothing behind the forward.
        scale, bias = self.logit_scale.float().exp(), self.logit_bias.float().clone()
        logits_per_image = pair_logits(image_embeds, text_embeds, scale, bias) if return_logits else None
        return FineViTDualOutput(
            loss=sigmoid_loss(image_embeds, text_embeds, scale, bias) if return_loss else None,
            logits_per_image=logits_per_image,
            logits_per_text=None if logits_per_image is None else logits_per_image.T,
            image_embeds=image_embeds,
            text_embeds=text_embeds,
            region_embeds=of_regions[0],
            region_text_embeds=of_regions[1],
            logit_scale=scale,
            logit_bias=bias,
            vision_model_output=vision_outputs,
            text_model_output=text_outputs,
        )

    def _packed(self, pixel_values: torch.Tensor, image_grid_thw: Any) -> tuple[torch.Tensor, Any]:
        """Packed patches and their grid, also of a plain batch; the encoder checks them."""
        if pixel_values.ndim != 4:
            return pixel_values, None if image_grid_thw is None else torch.as_tensor(image_grid_thw)
        vision = self.config.vision_config
        return pack_images(pixel_values, vision.patch_size, vision.spatial_merge_size)

    def _region_embeds(
        self, hidden_states: torch.Tensor, image_grid_thw: torch.Tensor, input_ids: torch.Tensor, **boxes: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        pooled = (
            self.get_region_features(hidden_states, image_grid_thw, **boxes),
            self.get_text_features(input_ids).pooler_output,
        )
        return tuple(F.normalize(embeds.float(), dim=-1) for embeds in pooled)


__all__ = ["FineViTDualModel", "FineViTDualOutput"]
