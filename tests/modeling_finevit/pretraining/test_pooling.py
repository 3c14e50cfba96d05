"""Attention pooling over packed images: each by itself, equal to one batched attention."""

import pytest
import torch
from torch.nn import functional as F

from modeling_finevit import FineViTConfig
from modeling_finevit.pretraining.pooling import FineViTAttentionPooling, softmax_by_image
from tests.support.encoder_cases import RAGGED_GRID

pytestmark = pytest.mark.model


def make_pooling(queries=1):
    torch.manual_seed(0)
    pooling = FineViTAttentionPooling(FineViTConfig.from_size("nano"), queries)
    torch.nn.init.normal_(pooling.queries)
    return pooling


def make_states():
    return torch.randn(int(RAGGED_GRID.prod(-1).sum()), 128, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("queries", [1, 3])
def test_an_image_is_pooled_as_by_torchs_attention_over_its_patches_alone(queries):
    pooling, states = make_pooling(queries), make_states()
    found = pooling(states, RAGGED_GRID)
    q = pooling.q_proj(pooling.queries).unflatten(-1, (4, 32)).transpose(0, 1)
    for number, patches in enumerate(states.split(RAGGED_GRID.prod(-1).tolist())):
        k, v = (part(patches).unflatten(-1, (4, 32)).transpose(0, 1) for part in (pooling.k_proj, pooling.v_proj))
        attended = pooling.o_proj(F.scaled_dot_product_attention(q, k, v).transpose(0, 1).flatten(1))
        expected = (attended + pooling.mlp(pooling.norm(attended))).mean(0)
        torch.testing.assert_close(found[number], expected, atol=1e-5, rtol=1e-5)


def test_an_image_knows_nothing_of_its_neighbours_and_not_the_order_of_its_patches():
    pooling, states = make_pooling(), make_states()
    expected = pooling(states, RAGGED_GRID)
    other = states.clone()
    other[24:] = torch.randn_like(other[24:])
    other[:24] = other[:24].flip(0)
    found = pooling(other, RAGGED_GRID)
    torch.testing.assert_close(found[0], expected[0])
    assert (found[1:] - expected[1:]).abs().max() > 1e-2


def test_large_scores_do_not_overflow():
    scores = torch.tensor([1000.0, 1001.0, -1000.0])[:, None, None]
    weights = softmax_by_image(scores, torch.tensor([0, 0, 1]), 2).flatten()
    torch.testing.assert_close(weights, torch.cat([torch.tensor([1000.0, 1001.0]).softmax(0), torch.ones(1)]))
