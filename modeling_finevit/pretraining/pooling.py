# Copyright 2026 The FineViT project. Licensed under the Apache License, Version 2.0.
"""Attention pooling over packed images: learned queries look at the patches of each image by itself.

One path for every attention implementation and device, without padding: one query has so few keys that a softmax by
segments costs next to nothing beside the encoder.

Shape suffixes: T packed patches of all images, I images, Q queries, H heads, D head width, C channels.
"""

import torch
from torch import nn
from transformers import initialization as init

from ..configuration_finevit import FineViTConfig
from ..modeling_finevit import FineViTMLP, FineViTRMSNorm


class FineViTAttentionPooling(nn.Module):
    """SigLIP's pooling head (Zhai et al. 2023; the paper's stage II pools by attention): one attention of learned
    queries to an image's patches, an MLP with a residual, and the mean over the queries where there are several.
    """

    def __init__(self, config: FineViTConfig, num_queries: int) -> None:
        super().__init__()
        width = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.queries = nn.Parameter(torch.empty(num_queries, width))
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.o_proj = nn.Linear(width, width)
        self.norm = FineViTRMSNorm(width, config.rms_norm_eps)
        self.mlp = FineViTMLP(config)

    def reset_parameters(self) -> None:
        """Xavier-uniform, as SigLIP's head: a fixed small spread keeps a narrow head at the mean of the patches."""
        for parameter in self.parameters():
            if parameter.ndim > 1:
                init.xavier_uniform_(parameter)

    def forward(self, hidden_states: torch.Tensor, image_grid_thw: torch.Tensor) -> torch.Tensor:
        """One vector of each image.

        Args:
            hidden_states (`torch.FloatTensor` of shape `(sum_patches, hidden_size)`): the encoder's output.
            image_grid_thw (`torch.LongTensor` of shape `(num_images, 3)`): the grids of its images.

        Returns:
            `(num_images, hidden_size)`.
        """
        images = len(image_grid_thw)
        image_T = _image_of_patch(hidden_states, image_grid_thw)
        weights_TQH = self.attention_weights(hidden_states, image_grid_thw)
        v_THD = self.v_proj(hidden_states).unflatten(-1, (self.num_heads, -1))
        pooled_IQHD = weights_TQH.new_zeros(images, *weights_TQH.shape[1:], v_THD.shape[-1]).index_add(
            0, image_T, weights_TQH[..., None] * v_THD[:, None].float()
        )
        pooled_IQC = self.o_proj(pooled_IQHD.flatten(2).to(hidden_states.dtype))
        return (pooled_IQC + self.mlp(self.norm(pooled_IQC))).mean(1)

    def attention_weights(self, hidden_states: torch.Tensor, image_grid_thw: torch.Tensor) -> torch.Tensor:
        """How much each query and head looks at each patch.

        Args:
            hidden_states, image_grid_thw: as for `forward`.

        Returns:
            `(sum_patches, num_queries, num_heads)` in float32; those of an image sum to one.
        """
        q_QHD, k_THD = (
            projection(states).unflatten(-1, (self.num_heads, -1))
            for projection, states in (
                (self.q_proj, self.queries.to(hidden_states.dtype)),
                (self.k_proj, hidden_states),
            )
        )
        scores_TQH = torch.einsum("qhd,thd->tqh", q_QHD, k_THD).float() * q_QHD.shape[-1] ** -0.5
        return softmax_by_image(scores_TQH, _image_of_patch(hidden_states, image_grid_thw), len(image_grid_thw))


def _image_of_patch(hidden_states: torch.Tensor, image_grid_thw: torch.Tensor) -> torch.Tensor:
    lengths = image_grid_thw.prod(-1)
    return torch.repeat_interleave(lengths, output_size=len(hidden_states)).to(hidden_states.device)


def softmax_by_image(scores: torch.Tensor, image_T: torch.Tensor, images: int) -> torch.Tensor:
    """Softmax over the patches of each image.

    Args:
        scores (`torch.FloatTensor` of shape `(T, Q, H)`).
        image_T (`torch.LongTensor` of shape `(T,)`): the image of each patch.
        images (`int`): how many there are.

    Returns:
        `(T, Q, H)`; those of an image sum to one.
    """
    index_TQH = image_T[:, None, None].expand_as(scores)
    lowest = scores.new_full((images, *scores.shape[1:]), -torch.inf)
    # The shift cancels in the quotient, so it needs no gradient.
    largest_IQH = lowest.scatter_reduce(0, index_TQH, scores.detach(), "amax")
    exp_TQH = (scores - largest_IQH[image_T]).exp()
    sums_IQH = torch.zeros_like(lowest).index_add(0, image_T, exp_TQH)
    return exp_TQH / sums_IQH[image_T]


__all__ = ["FineViTAttentionPooling", "softmax_by_image"]
