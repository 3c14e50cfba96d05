# Copyright 2026 The FineViT project. Licensed under the Apache License, Version 2.0.
"""Stage I: the encoder regresses a frozen teacher's features where it sees a mask."""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import initialization as init
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, can_return_tuple

from ..configuration_finevit import FineViTConfig
from ..modeling_finevit import FineViTModel, FineViTPreTrainedModel
from ..patches import pack_images


@dataclass
class FineViTMaskedImageModelingOutput(ModelOutput):
    """
    loss (`torch.FloatTensor` of shape `()`, with `targets`): mean squared error over the masked patches.
    reconstruction (`torch.FloatTensor` of shape `(sum_patches, teacher_hidden_size)`): predicted teacher features.
    """

    loss: torch.Tensor | None = None
    reconstruction: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[tuple[torch.Tensor, ...], ...] | None = None


class FineViTForMaskedImageModeling(FineViTPreTrainedModel):
    """Stage I: masked patches become one learned token, and a linear head regresses a frozen teacher's features.

    The paper fixes the L2 regression of DINOv3's features on masked patches; mask tokens inside the encoder and a
    linear head follow Seed-ViT.
    """

    def __init__(self, config: FineViTConfig) -> None:
        super().__init__(config)
        self.vision_model = FineViTModel(config)
        self.mask_token = nn.Parameter(torch.zeros(config.hidden_size))
        self.head = nn.Linear(config.hidden_size, config.teacher_hidden_size)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self:
            init.normal_(self.mask_token, std=self.config.initializer_range)

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        image_grid_thw: torch.Tensor | None = None,
        bool_masked_pos: torch.Tensor | None = None,
        targets: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | FineViTMaskedImageModelingOutput:
        r"""
        Args:
            pixel_values, image_grid_thw: as for [`FineViTModel`].
            bool_masked_pos (`torch.BoolTensor` of shape `(sum_patches,)`): which patches are masked, in merge order.
            targets (`torch.FloatTensor` of shape `(sum_patches, teacher_hidden_size)`, *optional*): the teacher's
                features, in merge order.

        Raises:
            ValueError: `targets` without a mask, or a mask that does not fit the patches.
        """
        if pixel_values.ndim == 4:
            pixel_values, image_grid_thw = pack_images(
                pixel_values, self.config.patch_size, self.config.spatial_merge_size
            )
        inputs_embeds = self.vision_model.embed_patches(pixel_values)
        if bool_masked_pos is not None:
            bool_masked_pos = bool_masked_pos.reshape(-1)
            if len(bool_masked_pos) != len(inputs_embeds):
                raise ValueError(
                    f"bool_masked_pos has {len(bool_masked_pos)} entries for {len(inputs_embeds)} patches."
                )
            inputs_embeds = torch.where(
                bool_masked_pos[:, None], self.mask_token.to(inputs_embeds.dtype), inputs_embeds
            )
        outputs = self.vision_model(image_grid_thw=image_grid_thw, inputs_embeds=inputs_embeds, **kwargs)
        reconstruction = self.head(outputs.last_hidden_state)
        loss = None
        if targets is not None:
            if bool_masked_pos is None:
                raise ValueError("targets need bool_masked_pos: the loss is taken over the masked patches only.")
            errors = (reconstruction.float() - targets.float()).square().mean(-1) * bool_masked_pos
            loss = errors.sum() / bool_masked_pos.sum().clamp(min=1)
        return FineViTMaskedImageModelingOutput(
            loss=loss,
            reconstruction=reconstruction,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


__all__ = ["FineViTForMaskedImageModeling", "FineViTMaskedImageModelingOutput"]
