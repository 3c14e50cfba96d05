"""FLOPs against other counts: six per weight and token, torch's own counter for windows, active experts."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from finevit_training.loop.flops import VLWork
from finevit_training.loop.speed import matmul_flops_per_second
from finevit_vl import FineViTVLForConditionalGeneration
from finevit_vl.configuration_finevit_vl import FineViTVLConfig
from modeling_finevit import FineViTConfig, FineViTModel


def test_flops_are_six_per_weight_and_token_where_attention_is_short():
    config = FineViTVLConfig.from_size("nano")
    model = FineViTVLForConditionalGeneration(config)
    count = VLWork(model)
    batch = {
        "image_grid_thw": torch.tensor([[1, 2, 2]]),
        "segments": np.array([[0, 10, 0, 0]]),
        "labels": torch.tensor([[-100] * 7 + [1] * 3]),
    }
    matrices = {name: p.numel() for name, p in model.named_parameters() if p.ndim > 1 and "embed_tokens" not in name}
    vision = sum(n for name, n in matrices.items() if "vision_tower" in name)
    projector = sum(n for name, n in matrices.items() if "projector" in name)
    text = sum(n for name, n in matrices.items() if "language_model" in name)
    head = config.text_config.vocab_size * config.text_config.hidden_size
    expected = 6 * (4 * vision + projector + 10 * text + 3 * head)
    assert count.flops(batch) == pytest.approx(expected, rel=0.01)
    for parameter in model.model.vision_tower.parameters():
        parameter.requires_grad_(False)
    frozen = 2 * 4 * vision + 4 * projector + 6 * (10 * text + 3 * head)
    assert VLWork(model).flops(batch) == pytest.approx(frozen, rel=0.01)


def test_a_matrix_product_has_a_measurable_peak():
    assert matmul_flops_per_second(torch.device("cpu"), torch.float32, seconds=0.05) > 1e9


def batch(rows, columns):
    grid = torch.tensor([[1, rows, columns]])
    return {"image_grid_thw": grid, "segments": np.array([[0, 10, 0, 0]]), "labels": torch.full((1, 10), -100)}


@pytest.mark.parametrize("full", [None, [1]])
def test_a_windowed_tower_is_counted_as_torch_counts_it(full):
    vision = {"num_hidden_layers": 3, "fullatt_block_indexes": full}
    model = FineViTVLForConditionalGeneration(FineViTVLConfig.from_size("nano", vision_config=vision))
    model.requires_grad_(False)
    counter, rows, columns = VLWork(model), 20, 12
    ours = counter.flops(batch(rows, columns)) - counter.flops(batch(0, 0))
    tower = FineViTModel._from_config(FineViTConfig.from_size("nano", **vision), attn_implementation="eager")
    with FlopCounterMode(display=False) as theirs, torch.no_grad():
        tower(torch.randn(rows * columns, 588), torch.tensor([[1, rows, columns]]))
    projector = (
        2 * rows * columns / 4 * sum(p.numel() for p in model.model.multi_modal_projector.parameters() if p.ndim > 1)
    )
    assert ours - projector == pytest.approx(theirs.get_total_flops(), rel=0.02)


def test_of_a_mixture_only_the_visited_experts_count():
    def flops(visited):
        text = {
            "model_type": "qwen3_moe",
            "num_experts": 8,
            "num_experts_per_tok": visited,
            "moe_intermediate_size": 64,
        }
        config = FineViTVLConfig.from_size(
            "nano", text_config={**text, "decoder_sparse_step": 1, "mlp_only_layers": []}
        )
        return VLWork(FineViTVLForConditionalGeneration(config)), config.text_config

    (two, text), (eight, _) = flops(2), flops(8)
    expert = 3 * text.hidden_size * 64 * text.num_hidden_layers
    assert eight.text_weights - two.text_weights == pytest.approx(6 * expert)
