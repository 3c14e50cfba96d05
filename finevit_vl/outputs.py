# Copyright 2026 The FineViT project. Licensed under the Apache License, Version 2.0.
"""What FineViT-VL's forward returns."""

from dataclasses import dataclass

import torch
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast


@dataclass
class FineViTVLModelOutputWithPast(BaseModelOutputWithPast):
    r"""
    image_pooler_output (`torch.FloatTensor` of shape `(num_image_tokens, hidden_size)`, *optional*):
        The projected image features, as they took the place of the image tokens.
    router_logits (`tuple[torch.FloatTensor]` of shapes `(batch * length, num_experts)`, *optional*):
        One a mixture-of-experts layer of the language model; `None` where it has none or they were not asked for.
    """

    image_pooler_output: torch.Tensor | None = None
    router_logits: tuple[torch.Tensor, ...] | None = None


@dataclass
class FineViTVLCausalLMOutputWithPast(CausalLMOutputWithPast):
    r"""
    image_pooler_output (`torch.FloatTensor` of shape `(num_image_tokens, hidden_size)`, *optional*):
        The projected image features, as they took the place of the image tokens.
    router_logits (`tuple[torch.FloatTensor]` of shapes `(batch * length, num_experts)`, *optional*):
        One a mixture-of-experts layer of the language model; `None` where it has none or they were not asked for.
    aux_loss (`torch.FloatTensor` of shape `()`, with `output_router_logits`):
        The load-balancing loss; `router_aux_loss_coef` times it is part of `loss`.
    """

    image_pooler_output: torch.Tensor | None = None
    router_logits: tuple[torch.Tensor, ...] | None = None
    aux_loss: torch.Tensor | None = None
