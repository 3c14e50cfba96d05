"""The encoder against Transformers' Qwen2.5-VL vision tower, which nobody of this project wrote."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel
from transformers.vision_utils import get_vision_window_index

from modeling_finevit import FineViTModel
from modeling_finevit.conversion import from_qwen2_5_vl
from tests.support.encoder_cases import relative_error
from tests.support.qwen_vl import GRID, VISION_FIELDS, make_qwen2_5_vl, move_weights, still_patches

pytestmark = pytest.mark.model


def make_tower(**fields):
    torch.manual_seed(0)
    tower = Qwen2_5_VisionTransformerPretrainedModel(Qwen2_5_VLVisionConfig(**(VISION_FIELDS | fields))).eval()
    move_weights(tower)
    return tower


def before_the_merger(tower, doubled):
    """Input of the merger's MLP, back from Qwen's window order to merge order; and the merger's own output."""
    seen = []
    handle = tower.merger.ln_q.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    outputs = tower(doubled, GRID)
    handle.remove()
    index, _ = get_vision_window_index(GRID, spatial_merge_size=2, window_size=112, patch_size=14)
    return seen[0].unflatten(0, (-1, 4))[torch.argsort(index)].flatten(0, 1), outputs.pooler_output


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("full_layers", [[1, 3], [0, 1, 2, 3], []], ids=["mixed", "full", "windows"])
def test_last_hidden_state_equals_qwen(implementation, full_layers):
    tower = make_tower(fullatt_block_indexes=full_layers)
    model, _ = from_qwen2_5_vl(tower)
    model.set_attn_implementation(implementation)
    patches, doubled = still_patches()
    with torch.no_grad():
        expected, _ = before_the_merger(tower, doubled)
        found = model(patches, GRID).last_hidden_state
        assert relative_error(found, expected) < 1e-5
        other = model(still_patches(seed=1)[0], GRID).last_hidden_state
        assert relative_error(other, expected) > 0.1
        turned = model(patches, GRID[:, [0, 2, 1]]).last_hidden_state
        assert relative_error(turned, expected) > 1e-3


def test_windows_matter_in_this_comparison():
    tower = make_tower(fullatt_block_indexes=[1, 3])
    model, _ = from_qwen2_5_vl(tower)
    model.config.fullatt_block_indexes = [0, 1, 2, 3]
    patches, doubled = still_patches()
    with torch.no_grad():
        assert relative_error(model(patches, GRID).last_hidden_state, before_the_merger(tower, doubled)[0]) > 1e-3


def test_projector_weights_reproduce_the_merger():
    tower = make_tower()
    model, projector = from_qwen2_5_vl(tower)
    patches, doubled = still_patches()
    with torch.no_grad():
        merged = model(patches, GRID).last_hidden_state.view(-1, 4 * 96)
        hidden = F.gelu(F.linear(merged, projector["linear_1.weight"], projector["linear_1.bias"]))
        found = F.linear(hidden, projector["linear_2.weight"], projector["linear_2.bias"])
        assert relative_error(found, before_the_merger(tower, doubled)[1]) < 1e-5


def test_gradients_equal_qwen():
    tower = make_tower()
    model, _ = from_qwen2_5_vl(tower)
    patches, doubled = (tensor.requires_grad_() for tensor in still_patches())
    direction = torch.randn(len(patches), 96)
    (before_the_merger(tower, doubled)[0] * direction).sum().backward()
    (model(patches, GRID).last_hidden_state * direction).sum().backward()
    frames = doubled.grad.unflatten(1, (3, 2, 196)).sum(2).flatten(1)  # both frames carry the same picture
    assert relative_error(patches.grad, frames) < 1e-4
    layers: list[Any] = list(model.layers)
    blocks: list[Any] = list(tower.blocks)
    for layer, block in zip(layers, blocks, strict=True):
        assert relative_error(layer.mlp.up_proj.weight.grad, block.mlp.up_proj.weight.grad) < 1e-4
        v_gradient = block.attn.qkv.weight.grad.chunk(3)[2]
        assert relative_error(layer.self_attn.v_proj.weight.grad, v_gradient) < 1e-4


def test_a_converted_model_is_an_ordinary_model(tmp_path):
    tower = make_tower()
    before = {name: tensor.clone() for name, tensor in tower.state_dict().items()}
    model, projector = from_qwen2_5_vl(tower)
    with torch.no_grad():
        for tensor in (*model.parameters(), *projector.values()):
            tensor.mul_(2)
    assert all(torch.equal(tensor, before[name]) for name, tensor in tower.state_dict().items())
    assert not model.config.patch_embed_bias
    model.save_pretrained(tmp_path)
    patches, _ = still_patches()
    with torch.no_grad():
        assert torch.equal(
            FineViTModel.from_pretrained(tmp_path)(patches, GRID).last_hidden_state,
            model(patches, GRID).last_hidden_state,
        )


def test_folder_of_the_tower(tmp_path):
    tower = make_tower()
    tower.save_pretrained(tmp_path)
    patches, _ = still_patches()
    with torch.no_grad():
        expected = from_qwen2_5_vl(tower).model(patches, GRID).last_hidden_state
        assert torch.equal(from_qwen2_5_vl(tmp_path).model(patches, GRID).last_hidden_state, expected)


def test_folder_of_a_whole_vlm_in_shards(tmp_path):
    vlm = make_qwen2_5_vl()
    vlm.save_pretrained(tmp_path, max_shard_size="300KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    patches, _ = still_patches()
    with torch.no_grad():
        expected = from_qwen2_5_vl(vlm.visual)
        found = from_qwen2_5_vl(str(tmp_path))
        assert torch.equal(
            found.model(patches, GRID).last_hidden_state, expected.model(patches, GRID).last_hidden_state
        )
    assert all(torch.equal(found.projector[name], tensor) for name, tensor in expected.projector.items())


def test_something_else_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"vlm\.model\.visual"):
        from_qwen2_5_vl(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"config\.json"):
        from_qwen2_5_vl(tmp_path)
    make_tower().config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"lacks model\.safetensors"):
        from_qwen2_5_vl(tmp_path)
