# Copyright 2026 The FineViT project. Licensed under the Apache License, Version 2.0.
"""FineViT-VL: FineViT, a two-layer MLP over 2x2-merged patches, and any causal language model of transformers.

Follows the FineViT paper, section on FineViT-VL; the class layout is the one transformers' own vision-language models
share, so that generate, pipelines, PEFT, TRL and serving engines find what they look for.
"""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoModel, GenerationMixin, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import can_return_tuple, torch_compilable_check
from transformers.utils.generic import accepts_precomputed_kwargs

from finevit_vl.assembly import join_vision_and_text
from finevit_vl.configuration_finevit_vl import FineViTVLConfig
from finevit_vl.losses import IGNORE_INDEX, load_balancing_loss, slice_positions, supervised_positions
from finevit_vl.outputs import FineViTVLCausalLMOutputWithPast, FineViTVLModelOutputWithPast
from finevit_vl.packed_attention import forward_in_segments
from finevit_vl.packed_layout import PackedLayout
from finevit_vl.processing_finevit_vl import FineViTVLProcessor
from finevit_vl.quantization import leave_vision_unquantized


class FineViTVLMultiModalProjector(nn.Module):
    """Two linear layers from `spatial_merge_size**2` neighbouring patches to one input of the language model."""

    def __init__(self, config: FineViTVLConfig) -> None:
        super().__init__()
        self.merged_hidden_size = config.merged_hidden_size
        hidden_size = config.projector_hidden_size or config.merged_hidden_size
        self.linear_1 = nn.Linear(config.merged_hidden_size, hidden_size, bias=config.projector_bias)
        self.act = ACT2FN[config.projector_hidden_act]
        self.linear_2 = nn.Linear(hidden_size, config.text_config.hidden_size, bias=config.projector_bias)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(patches, vision width)` in merge order to `(patches / merge**2, text width)`."""
        merged = hidden_states.view(-1, self.merged_hidden_size)
        return self.linear_2(self.act(self.linear_1(merged)))


class FineViTVLPreTrainedModel(PreTrainedModel):
    config: FineViTVLConfig
    base_model_prefix = "model"
    input_modalities = ["image", "text"]  # noqa: RUF012
    supports_gradient_checkpointing = True
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    # The loss is a mean over the batch's supervised tokens, whatever the trainer's gradient accumulation.
    accepts_loss_kwargs = False

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, *model_args: Any, **kwargs: Any) -> Any:
        """As in transformers, except that an 8-bit or 4-bit `quantization_config` which does not say what to leave
        alone leaves the vision tower, the projector and the head in full precision."""
        if kwargs.get("quantization_config") is not None:
            kwargs["quantization_config"] = leave_vision_unquantized(kwargs["quantization_config"])
        return super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)


class FineViTVLModel(FineViTVLPreTrainedModel):
    """Encoder, projector and language model without the head."""

    def __init__(self, config: FineViTVLConfig) -> None:
        super().__init__(config)
        self.vision_tower = AutoModel.from_config(config.vision_config)
        self.multi_modal_projector = FineViTVLMultiModalProjector(config)
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()

    @accepts_precomputed_kwargs(modality="image")
    @can_return_tuple
    def get_image_features(
        self,
        pixel_values: torch.Tensor,
        image_grid_thw: torch.Tensor,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        r"""Encode and project pictures.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(sum_patches, 3 * patch_size**2)`): patches in merge order.
            image_grid_thw (`torch.LongTensor` of shape `(num_images, 3)`): frames, rows and columns of patches.

        Returns:
            `last_hidden_state` of shape `(sum_patches, vision width)`, and `pooler_output`, a tuple with one
            `(merged patches, text width)` tensor a picture.
        """
        kwargs["return_dict"] = True
        image_grid_thw = torch.as_tensor(
            image_grid_thw
        ).cpu()  # once, for the tower and for the sizes: each look is a synchronisation
        # A tower without trainable weights must not build a graph: gradient checkpointing under PEFT makes even the
        # patch embedding's output require grad.
        trainable = pixel_values.requires_grad or any(p.requires_grad for p in self.vision_tower.parameters())
        with torch.set_grad_enabled(trainable and torch.is_grad_enabled()):
            outputs = self.vision_tower(pixel_values, image_grid_thw, **kwargs)
        features = self.multi_modal_projector(outputs.last_hidden_state)
        sizes = image_grid_thw.prod(-1) // self.config.vision_config.spatial_merge_size**2
        outputs.pooler_output = torch.split(features, sizes.tolist())
        return outputs

    def get_placeholder_mask(
        self, input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor, image_features: torch.Tensor
    ) -> torch.Tensor:
        """`(batch, length, 1)` mask of the image tokens.

        Raises:
            ValueError: there are more or fewer of them than `image_features` has rows.
        """
        if input_ids is not None:
            mask = input_ids == self.config.image_token_id
        else:
            token = torch.full((), self.config.image_token_id, device=inputs_embeds.device)
            mask = (inputs_embeds == self.get_input_embeddings()(token)).all(-1)
        num_tokens = mask.sum()
        torch_compilable_check(
            num_tokens == image_features.shape[0],
            lambda: (
                f"Image features and image tokens do not match, tokens: {num_tokens}, features: "
                f"{image_features.shape[0]}. Build input_ids and pixel_values in one processor call."
            ),
        )
        return mask.unsqueeze(-1).to(inputs_embeds.device)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        image_grid_thw: torch.Tensor | None = None,
        use_cache: bool | None = None,
        mm_encoder_outputs: dict[str, Any] | None = None,
        segments: Any = None,
        **kwargs: Any,
    ) -> FineViTVLModelOutputWithPast:
        r"""Run the language model with every image token replaced by a projected image feature.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch, length)`): token ids; `inputs_embeds` is the alternative.
            pixel_values (`torch.FloatTensor` of shape `(sum_patches, 3 * patch_size**2)`): the batch's pictures in the
                order of their image tokens.
            image_grid_thw (`torch.LongTensor` of shape `(num_images, 3)`): their patch grids.
            mm_encoder_outputs (`dict`, *optional*): `{"image": get_image_features(...)}` computed before; generate
                passes it instead of pixels.
            segments (`torch.IntTensor` of shape `(num_segments, 4)`, *optional*): which tokens of packed rows see each
                other; takes the place of `attention_mask`, and of `position_ids` where there are none. See
                [`PackedLayout.read`]; best left on the host.

        Raises:
            ValueError: not exactly one of `input_ids` and `inputs_embeds`, both pixels and `mm_encoder_outputs`, image
                tokens and features that differ in number, or segments together with a mask or a cache.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Pass exactly one of input_ids and inputs_embeds.")
        tokens: Any = inputs_embeds if input_ids is None else input_ids
        layout = None if segments is None else PackedLayout.read(segments, tokens)
        image_outputs = (mm_encoder_outputs or {}).get("image")
        if pixel_values is not None and image_outputs is not None:
            raise ValueError("Pass either pixel_values or mm_encoder_outputs['image'], not both.")
        if pixel_values is not None and pixel_values.shape[0] == 0:
            pixel_values = None
        vision_kwargs = {key: kwargs.pop(key) for key in list(kwargs) if key.startswith("image_")}
        if pixel_values is not None:
            image_outputs = self.get_image_features(pixel_values, image_grid_thw, **vision_kwargs)
        inputs_embeds, image_features = self._embed(input_ids, inputs_embeds, image_outputs)
        if use_cache is None and attention_mask is None and position_ids is not None:
            # A fresh cache would keep transformers from seeing that rows are packed (`finevit_training.data.packing`).
            use_cache = False if past_key_values is None else None
        arguments = {"attention_mask": attention_mask, "position_ids": position_ids, "use_cache": use_cache, **kwargs}
        arguments["past_key_values"] = past_key_values
        arguments["inputs_embeds"] = inputs_embeds
        if layout is None:
            outputs = self.language_model(**arguments)
        else:
            outputs = forward_in_segments(self.language_model, layout, arguments)
        return FineViTVLModelOutputWithPast(
            last_hidden_state=outputs.last_hidden_state,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            router_logits=getattr(outputs, "router_logits", None),
            image_pooler_output=image_features,
        )

    def _embed(
        self,
        input_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
        image_outputs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`(batch, length, text width)` with the pictures in their places, and `(image tokens, text width)`."""
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        if image_outputs is not None:
            image_features = torch.cat(list(image_outputs.pooler_output)).to(inputs_embeds)
            mask = self.get_placeholder_mask(input_ids, inputs_embeds, image_features)
            return inputs_embeds.masked_scatter(mask, image_features), image_features
        if self.training and torch.is_grad_enabled():
            inputs_embeds = inputs_embeds + self._zero_from_vision().to(inputs_embeds)
        return inputs_embeds, None

    def _zero_from_vision(self) -> torch.Tensor:
        """Zero, computed from every vision weight: distributed training stalls or fails if a batch without pictures
        leaves weights without a gradient on one rank only."""
        vision = self.config.vision_config
        merge = vision.spatial_merge_size
        patches = torch.zeros(merge**2, vision.num_channels * vision.patch_size**2, device=self.device)
        grid = torch.tensor([[1, merge, merge]], device=self.device)
        return self.get_image_features(patches, grid).pooler_output[0].sum() * 0.0


class FineViTVLForConditionalGeneration(FineViTVLPreTrainedModel, GenerationMixin):
    """FineViT-VL with the language model's head: answers questions about pictures."""

    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}  # noqa: RUF012
    _tp_plan = {"lm_head": "colwise_gather_output"}  # noqa: RUF012

    def __init__(self, config: FineViTVLConfig) -> None:
        super().__init__(config)
        self.model = FineViTVLModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    @classmethod
    def from_vision_text_pretrained(
        cls,
        vision: str | Path | PreTrainedModel,
        text: str | Path | PreTrainedModel,
        processor: FineViTVLProcessor | None = None,
        dtype: str | torch.dtype = "auto",
        projector: str | Path | None = None,
        **config_overrides: Any,
    ) -> "FineViTVLForConditionalGeneration":
        """Join a FineViT, a projector (by default a new one) and a causal language model.

        See [`finevit_vl.assembly.join_vision_and_text`] for arguments and errors.
        """
        return join_vision_and_text(cls, vision, text, processor, dtype, projector, **config_overrides)

    def get_image_features(
        self,
        pixel_values: torch.Tensor,
        image_grid_thw: torch.Tensor,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        """See [`FineViTVLModel.get_image_features`]."""
        return self.model.get_image_features(pixel_values, image_grid_thw, **kwargs)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        image_grid_thw: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        mm_encoder_outputs: dict[str, Any] | None = None,
        shift_labels: torch.Tensor | None = None,
        output_router_logits: bool | None = None,
        **kwargs: Any,
    ) -> FineViTVLCausalLMOutputWithPast:
        r"""[`FineViTVLModel.forward`], then logits and, given labels, the mean cross-entropy.

        Args:
            labels (`torch.LongTensor` of shape `(batch, length)`, *optional*): `input_ids` where there is loss,
                `IGNORE_INDEX` (-100) elsewhere. `shift_labels` are the same, already shifted.
            logits_to_keep (`int` or `torch.Tensor`, *optional*): the positions that get logits and loss, see
                [`finevit_vl.losses.slice_positions`]; by default all.
            output_router_logits (`bool`, *optional*): add the load-balancing loss; by default as the config says.

        Raises:
            ValueError: a language model without experts has no router logits; else see [`FineViTVLModel.forward`].
        """
        if output_router_logits is None:
            output_router_logits = getattr(self.config.text_config, "output_router_logits", False)
        kwargs |= {"output_router_logits": True} if output_router_logits else {}
        if use_cache is None and (labels is not None or shift_labels is not None):
            use_cache = False
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            pixel_values=pixel_values,
            image_grid_thw=image_grid_thw,
            use_cache=use_cache,
            mm_encoder_outputs=mm_encoder_outputs,
            **kwargs,
        )
        logits = self.lm_head(slice_positions(outputs.last_hidden_state, logits_to_keep))
        loss, aux_loss = self._cross_entropy(logits, labels, shift_labels, logits_to_keep, **kwargs), None
        if output_router_logits:
            loss, aux_loss = self._with_balance(loss, outputs, attention_mask, kwargs.get("segments"))
        return FineViTVLCausalLMOutputWithPast(
            loss=loss,
            aux_loss=aux_loss,
            router_logits=outputs.router_logits,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_pooler_output=outputs.image_pooler_output,
        )

    def _cross_entropy(
        self,
        logits: torch.Tensor,
        labels: torch.Tensor | None,
        shift_labels: torch.Tensor | None,
        logits_to_keep: int | torch.Tensor,
        **kwargs: Any,
    ) -> torch.Tensor | None:
        """The mean over the kept positions; None without labels."""
        if shift_labels is None and labels is not None:
            shift_labels = F.pad(labels[:, 1:], (0, 1), value=IGNORE_INDEX)
        if shift_labels is None:
            return None
        kept = slice_positions(shift_labels, logits_to_keep).contiguous()
        vocab_size = self.config.text_config.vocab_size
        return self.loss_function(logits=logits, labels=None, vocab_size=vocab_size, shift_labels=kept, **kwargs)

    def _with_balance(
        self, loss: torch.Tensor | None, outputs: Any, attention_mask: torch.Tensor | None, segments: Any
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """`loss` with the weighted load-balancing loss added, and that loss alone; padding does not count."""
        tokens = attention_mask
        if segments is not None:
            tokens = PackedLayout.read(segments, outputs.last_hidden_state).token_mask
        balance = load_balancing_loss(outputs.router_logits, self.config.text_config, tokens)
        if loss is not None:
            loss = loss + self.config.text_config.router_aux_loss_coef * balance.to(loss.device)
        return loss, balance

    def _expand_inputs_for_generation(
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: torch.LongTensor | None = None,
        **model_kwargs: Any,
    ) -> tuple[torch.LongTensor, dict[str, Any]]:
        """Repeats each sample's group of pictures for beams and several returns.

        transformers up to 5.18 hands the pixels through to here and would repeat their rows; later versions encode
        the pictures before, and this finds nothing to do.
        """
        pixels = {key: model_kwargs.pop(key, None) for key in ("pixel_values", "image_grid_thw")}
        if expand_size > 1 and input_ids is not None and pixels["pixel_values"] is not None:
            pixels = _repeat_pictures(**pixels, copies=self._picture_order(input_ids, pixels, expand_size))
        input_ids, model_kwargs = super()._expand_inputs_for_generation(  # ty: ignore[invalid-argument-type]
            expand_size, is_encoder_decoder, input_ids, **model_kwargs
        )
        return input_ids, model_kwargs | {key: value for key, value in pixels.items() if value is not None}

    def _picture_order(self, input_ids: torch.Tensor, pixels: dict[str, torch.Tensor], expand_size: int) -> list[int]:
        merge_length = self.config.vision_config.spatial_merge_size**2
        picture_tokens = iter((pixels["image_grid_thw"].prod(-1) // merge_length).tolist())
        order, next_picture = [], 0
        for row_tokens in (input_ids == self.config.image_token_id).sum(-1).tolist():
            first = next_picture
            while row_tokens > 0:
                row_tokens -= next(picture_tokens)
                next_picture += 1
            order += list(range(first, next_picture)) * expand_size
        return order


def _repeat_pictures(
    pixel_values: torch.Tensor, image_grid_thw: torch.Tensor, copies: list[int]
) -> dict[str, torch.Tensor]:
    pictures = pixel_values.split(image_grid_thw.prod(-1).tolist())
    return {
        "pixel_values": torch.cat([pictures[index] for index in copies]),
        "image_grid_thw": image_grid_thw[copies],
    }


__all__ = [
    "FineViTVLForConditionalGeneration",
    "FineViTVLModel",
    "FineViTVLPreTrainedModel",
    "supervised_positions",
]
