# Copyright 2026 The FineViT project. Licensed under the Apache License, Version 2.0.
"""Stage I: where it sees a mask, the encoder regresses a frozen teacher's features or the pixels that are hidden.

Shape suffixes: T packed patches of all images, D width of the targets.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, can_return_tuple

from ..configuration_finevit import FineViTConfig
from ..modeling_finevit import FineViTModel, FineViTPreTrainedModel
from ..patches import pack_images

LAYER_NORM_EPS = 1e-6  # beside the variance of a patch; MAE's


@dataclass
class FineViTMaskedImageModelingOutput(ModelOutput):
    """
    loss (`torch.FloatTensor` of shape `()`, with `targets`): squared error of the patches that count, in float32.
    reconstruction (`torch.FloatTensor` of shape `(sum_patches, teacher_hidden_size)`): predictions of the targets as
        `target_norm` makes them; with `l2` only their direction counts.
    """

    loss: torch.Tensor | None = None
    reconstruction: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[tuple[torch.Tensor, ...], ...] | None = None


def normalize_targets(targets_TD: torch.Tensor, target_norm: str) -> torch.Tensor:
    """Targets as the model's head predicts them, float32; `target_norm` is [`FineViTConfig`]'s."""
    targets_TD = targets_TD.float()
    if target_norm == "layer_norm":
        return F.layer_norm(targets_TD, targets_TD.shape[-1:], eps=LAYER_NORM_EPS)
    return F.normalize(targets_TD, dim=-1) if target_norm == "l2" else targets_TD


def patch_errors(prediction_TD: torch.Tensor, targets_TD: torch.Tensor, target_norm: str) -> torch.Tensor:
    """`(sum_patches,)` float32: mean squared error of each patch; with `l2` the squared distance of unit vectors,
    `2 - 2 cos`.
    """
    targets_TD = normalize_targets(targets_TD, target_norm)
    if target_norm == "l2":
        return F.mse_loss(F.normalize(prediction_TD.float(), dim=-1), targets_TD, reduction="none").sum(-1)
    return F.mse_loss(prediction_TD.float(), targets_TD, reduction="none").mean(-1)


class FineViTForMaskedImageModeling(FineViTPreTrainedModel):
    """Stage I: masked patches become one learned token, and a linear head regresses what a teacher sees there.

    The paper fixes the L2 regression of DINOv3's features on masked patches; mask tokens inside the encoder and a
    linear head follow Seed-ViT. The pixels themselves are a target that needs no teacher: `targets=pixel_values` with
    `target_norm="layer_norm"` and `teacher_hidden_size=channels * patch_size²` (MAE, arXiv 2111.06377).
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
        image_grid_thw: torch.Tensor | np.ndarray | None = None,
        bool_masked_pos: torch.Tensor | None = None,
        targets: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | FineViTMaskedImageModelingOutput:
        r"""
        Args:
            pixel_values, image_grid_thw: as for [`FineViTModel`].
            bool_masked_pos (`torch.BoolTensor` of shape `(sum_patches,)`): which patches are masked, in merge order.
            targets (`torch.FloatTensor` of shape `(sum_patches, teacher_hidden_size)`, *optional*): what is regressed,
                in merge order, before `target_norm`.
            num_items_in_batch (`int`, *optional*, in `kwargs`): what the sum of the errors is divided by, where the
                loss is part of a larger step; by default the patches that count, so that the loss is their mean.

        Raises:
            ValueError: `targets` without a mask or of another shape, or a mask that does not fit the patches.
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
        num_items_in_batch = kwargs.pop("num_items_in_batch", None)
        outputs = self.vision_model(image_grid_thw=image_grid_thw, inputs_embeds=inputs_embeds, **kwargs)
        reconstruction = self.head(outputs.last_hidden_state)
        loss = None
        if targets is not None:
            loss = self._loss(reconstruction, targets, bool_masked_pos, num_items_in_batch)
        return FineViTMaskedImageModelingOutput(
            loss=loss,
            reconstruction=reconstruction,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def _loss(
        self,
        reconstruction_TD: torch.Tensor,
        targets_TD: torch.Tensor,
        masked_T: torch.Tensor | None,
        num_items_in_batch: torch.Tensor | int | None,
    ) -> torch.Tensor:
        if masked_T is None:
            raise ValueError("targets need bool_masked_pos: the loss is taken over masked patches.")
        if targets_TD.shape != reconstruction_TD.shape:
            raise ValueError(
                f"targets have shape {tuple(targets_TD.shape)}, but the head predicts "
                f"{tuple(reconstruction_TD.shape)}: (sum_patches, config.teacher_hidden_size)."
            )
        errors_T = patch_errors(reconstruction_TD, targets_TD, self.config.target_norm)
        counts_T = masked_T if self.config.loss_on == "masked" else torch.ones_like(masked_T)
        count = counts_T.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
        return (errors_T * counts_T).sum() / count


__all__ = ["FineViTForMaskedImageModeling", "FineViTMaskedImageModelingOutput", "normalize_targets"]
