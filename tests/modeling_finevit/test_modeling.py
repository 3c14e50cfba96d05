"""FineViTModel as a Transformers model."""

import copy
import json
import subprocess
import sys
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModel, pipeline

from modeling_finevit import FineViTImageProcessorPil, FineViTModel
from modeling_finevit.rotary import apply_rotary
from tests.support.encoder_cases import RAGGED_GRID, make_model, make_patches, relative_error

pytestmark = pytest.mark.model

LENGTHS = RAGGED_GRID.prod(-1).tolist()
WINDOWS = {"window_size": 56, "fullatt_block_indexes": [1]}


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("fields", [{}, WINDOWS], ids=["full", "windows"])
def test_packed_batch_equals_one_image_at_a_time(implementation, fields):
    model, patches = make_model(implementation, **fields), make_patches(RAGGED_GRID)
    packed = model(patches, RAGGED_GRID)
    for number, (hidden, alone) in enumerate(
        zip(packed.last_hidden_state.split(LENGTHS), patches.split(LENGTHS), strict=True)
    ):
        single = model(alone, RAGGED_GRID[number : number + 1])
        assert relative_error(hidden, single.last_hidden_state) < 1e-5
        assert relative_error(packed.pooler_output[number], single.pooler_output[0]) < 1e-5
        assert relative_error(packed.pooler_output[number], hidden.mean(0)) < 1e-5


def test_the_grid_may_be_an_array_which_no_wrapper_moves_to_a_device():
    model, patches = make_model(), make_patches(RAGGED_GRID)
    expected = model(patches, RAGGED_GRID).last_hidden_state
    assert torch.equal(model(patches, RAGGED_GRID.numpy()).last_hidden_state, expected)


def test_no_image_sees_its_neighbour_but_all_its_patches_see_each_other():
    model, patches = make_model("sdpa"), make_patches(RAGGED_GRID)
    before = model(patches, RAGGED_GRID).last_hidden_state.split(LENGTHS)
    patches[LENGTHS[0]] += 1.0  # the first patch of the second image
    after = model(patches, RAGGED_GRID).last_hidden_state.split(LENGTHS)
    changed = [(a - b).abs().amax(-1) for a, b in zip(after, before, strict=True)]
    assert (changed[1] > 0).all()
    assert all(change.max() == 0 for number, change in enumerate(changed) if number != 1)


def test_position_counts_rows_and_columns_apart():
    """The same patches in a turned grid are another picture: 2D RoPE must tell rows from columns."""
    model, patches = make_model(), make_patches(torch.tensor([[1, 4, 6]]))
    upright = model(patches, torch.tensor([[1, 4, 6]])).pooler_output
    assert relative_error(model(patches, torch.tensor([[1, 6, 4]])).pooler_output, upright) > 1e-3


def test_plain_batch_equals_packed_patches():
    images = torch.randn(3, 3, 56, 84, generator=torch.Generator().manual_seed(0))
    model = make_model("sdpa")
    processor = FineViTImageProcessorPil(do_rescale=False, do_normalize=False)
    patches = torch.cat([torch.from_numpy(processor.patchify(image.numpy(), 14, 2, 1)[0].copy()) for image in images])
    packed = model(patches, torch.tensor([[1, 4, 6]] * 3))
    plain = model(images)
    assert torch.equal(plain.last_hidden_state, packed.last_hidden_state)
    assert plain.pooler_output.shape == (3, 128)


def test_hidden_states_and_attentions_on_request():
    model, patches = make_model("eager", **WINDOWS), make_patches(RAGGED_GRID)
    outputs = model(patches, RAGGED_GRID, output_hidden_states=True, output_attentions=True)
    assert len(outputs.hidden_states) == 3
    assert torch.equal(outputs.hidden_states[0], model.patch_embed(patches))
    assert torch.equal(outputs.hidden_states[-1], outputs.last_hidden_state)
    windowed, full = outputs.attentions
    assert [weights.shape for weights in full] == [(1, 4, length, length) for length in LENGTHS]
    assert sum(weights.shape[-1] for weights in windowed) == sum(LENGTHS)
    assert len(windowed) > len(full)
    for weights in (*windowed, *full):
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
    plain = model(patches, RAGGED_GRID)
    assert plain.hidden_states is None
    assert plain.attentions is None
    as_tuple = model(patches, RAGGED_GRID, return_dict=False)
    assert torch.equal(as_tuple[0], plain.last_hidden_state)


def test_attention_maps_belong_to_their_images():
    """Images are sorted by length inside; the recorded maps must come back in the batch's order."""
    model, patches = make_model("eager"), make_patches(RAGGED_GRID)
    maps = model(patches, RAGGED_GRID, output_attentions=True).attentions[-1]
    for number, alone in enumerate(patches.split(LENGTHS)):
        single = model(alone, RAGGED_GRID[number : number + 1], output_attentions=True).attentions[-1][0]
        torch.testing.assert_close(maps[number], single, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_gives_the_same_gradients(reentrant):
    plain = make_model("sdpa", **WINDOWS).train()
    saving = copy.deepcopy(plain)
    saving.gradient_checkpointing_enable({"use_reentrant": reentrant})
    saving.enable_input_require_grads()
    calls = []
    saving.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    for model in (plain, saving):
        model(make_patches(RAGGED_GRID), RAGGED_GRID).last_hidden_state.square().sum().backward()
    assert len(calls) == 2  # once forward, once again in backward
    for ours, theirs in zip(saving.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_save_and_load_round_trip_is_bit_identical(tmp_path):
    model, patches = make_model("sdpa"), make_patches(RAGGED_GRID)
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is FineViTModel
    assert torch.equal(loaded(patches, RAGGED_GRID).last_hidden_state, model(patches, RAGGED_GRID).last_hidden_state)
    half = AutoModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half.rotary_emb.inv_freq.dtype is torch.float32
    assert torch.equal(half.rotary_emb.inv_freq, model.rotary_emb.inv_freq)
    full = model(patches, RAGGED_GRID).last_hidden_state
    assert relative_error(half(patches, RAGGED_GRID).last_hidden_state.float(), full) < 0.05


def test_a_clip_is_its_frames():
    model, patches = make_model("sdpa"), make_patches(torch.tensor([[3, 4, 6]]))
    clip = model(patches, torch.tensor([[3, 4, 6]]))
    frames = model(patches, torch.tensor([[1, 4, 6]] * 3))
    assert torch.equal(clip.last_hidden_state, frames.last_hidden_state)
    torch.testing.assert_close(clip.pooler_output[0], frames.pooler_output.mean(0))


def test_no_images_give_no_rows():
    outputs = make_model("sdpa")(torch.zeros(0, 588), torch.zeros(0, 3, dtype=torch.long))
    assert outputs.last_hidden_state.shape == (0, 128)
    assert outputs.pooler_output.shape == (0, 128)


@pytest.mark.parametrize(
    ("patches", "grid", "message"),
    [
        (torch.zeros(24, 588), torch.tensor([[1, 4, 4]]), "announces 16 patches, but there are 24"),
        (torch.zeros(15, 588), torch.tensor([[1, 3, 5]]), "multiples of 2"),
        (torch.zeros(24, 588), None, "image_grid_thw"),
        (torch.zeros(24, 100), torch.tensor([[1, 4, 6]]), "588"),
        (None, torch.tensor([[1, 4, 6]]), "588"),
    ],
)
def test_patches_that_do_not_fit_are_refused(patches, grid, message):
    with pytest.raises(ValueError, match=message):
        make_model()(patches, grid)


@pytest.mark.parametrize("cast", ["bfloat16", "half", "to"])
def test_rotary_frequencies_stay_float32(cast):
    """Rounded to bfloat16, row 71 would turn by 0.1 rad; DeepSpeed's bf16 engine casts whole models."""
    model = make_model()
    expected = model.rotary_emb.inv_freq.clone()
    model = model.to(torch.bfloat16) if cast == "to" else getattr(model, cast)()
    assert model.patch_embed.weight.dtype in (torch.bfloat16, torch.float16)
    assert torch.equal(model.rotary_emb.inv_freq, expected)
    assert "rotary_emb.inv_freq" not in model.state_dict()


def test_the_rotation_keeps_nothing_for_the_backward_pass_but_itself():
    rotation = torch.randn(64, 1, 48, 2)
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    states = torch.randn(64, 16, 96, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        apply_rotary(states, rotation)
    assert kept == {rotation.untyped_storage().data_ptr(): rotation.untyped_storage().nbytes()}


def test_no_operation_is_used_that_mps_lacks():
    """Apple's back end has no segment_reduce; the trace of a forward and backward pass shows none."""
    model = make_model("sdpa")
    with torch.profiler.profile() as trace:
        model(make_patches(RAGGED_GRID), RAGGED_GRID).pooler_output.sum().backward()
    names = {event.name for event in trace.events()}
    assert "aten::index_add" in names
    assert not any("segment_reduce" in name for name in names)


def test_the_encoder_is_taken_out_of_a_vision_language_models_folder(tmp_path):
    """By both classes' names, with nothing missing, and saved again under the encoder's own names."""
    tower = make_model()
    others = {"language_model.norm.weight": torch.ones(4), "multi_modal_projector.linear_1.weight": torch.ones(4)}
    for prefix in ("model.", ""):
        folder = tmp_path / f"vl{prefix}"
        folder.mkdir()
        state = {f"{prefix}vision_tower.{name}": tensor for name, tensor in tower.state_dict().items()}
        state |= {f"{prefix}{name}": tensor for name, tensor in others.items()} | {"lm_head.weight": torch.ones(4)}
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        config = {"model_type": "finevit_vl", "vision_config": tower.config.to_dict()}
        (folder / "config.json").write_text(json.dumps(config))
        loaded: Any = FineViTModel.from_pretrained(folder, output_loading_info=True)
        model, info = loaded
        assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        model.save_pretrained(folder / "tower")
        for encoder in (model, FineViTModel.from_pretrained(folder / "tower")):
            for (name, found), (_, expected) in zip(encoder.named_parameters(), tower.named_parameters(), strict=True):
                assert torch.equal(found, expected), name


def test_classes_are_found_by_name_in_transformers():
    """TRL (models by path, DPO's reference model) and `transformers serve` look there, whenever they imported it."""
    script = """
import transformers
from transformers import AutoConfig
import modeling_finevit
import transformers as late
names = ["FineViTConfig", "FineViTModel", "FineViTForMaskedImageModeling", "FineViTImageProcessorPil"]
assert all(getattr(late, name) is getattr(modeling_finevit, name) for name in names)
assert all(getattr(transformers, name) is getattr(modeling_finevit, name) for name in names)
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_image_feature_extraction_pipeline(tmp_path):
    make_model().save_pretrained(tmp_path)
    FineViTImageProcessorPil().save_pretrained(tmp_path)
    from PIL import Image

    extract: Any = pipeline("image-feature-extraction", model=str(tmp_path), device="cpu")
    features = extract(Image.new("RGB", (84, 56), "red"), return_tensors=True)
    assert features.shape[-2:] == (24, 128)
