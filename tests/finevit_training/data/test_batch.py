"""From a batch to the arguments of forward: masks made on the device, nothing unknown, no leak between samples."""

import pytest
import torch

from finecap.tasks.mixture import DENSE_TASKS
from finevit_training.data.batch import FORWARD_KEYS, isolated_turns_mask, model_inputs
from finevit_training.data.packing import may_pack_rows
from finevit_training.examples.conversation import SFTCollator

MIXTURE = dict.fromkeys(DENSE_TASKS, 1.0)


@pytest.fixture
def isolated(processor, samples):
    return SFTCollator(processor, mixture=MIXTURE, isolate_turns=True)(samples)


def test_each_token_sees_the_picture_and_its_own_turn_up_to_itself():
    turn_ids = torch.tensor([[0, 0, 1, 1, 2, -1]])
    seen = (isolated_turns_mask(turn_ids, torch.float32) == 0)[0, 0].int().tolist()
    assert seen == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [1, 1, 0, 0, 0, 1],
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_mask_has_the_type_of_attention_and_hides_completely(dtype):
    mask = isolated_turns_mask(torch.tensor([[0, 1, 2]]), dtype)
    assert mask.dtype == dtype
    assert mask.shape == (1, 1, 3, 3)
    assert mask[0, 0, 2, 1] == torch.finfo(dtype).min


def test_the_loader_sends_turn_numbers_and_no_mask(isolated):
    rows, length = isolated["input_ids"].shape
    sent = sum(value.nbytes for value in isolated.values() if isinstance(value, torch.Tensor))
    pixels = isolated["pixel_values"].nbytes
    assert "attention_mask" not in isolated
    assert sent - pixels < 20 * rows * length
    mask = model_inputs(isolated, "sdpa", torch.float32)["attention_mask"]
    assert mask.shape == (rows, 1, length, length)


def test_only_known_keys_reach_the_model(isolated):
    inputs = model_inputs({**isolated, "weights": [1.0]}, "sdpa", torch.float32)
    assert set(inputs) <= set(FORWARD_KEYS)
    assert {"input_ids", "labels", "attention_mask", "position_ids", "pixel_values", "image_grid_thw"} <= set(inputs)


def test_segments_reach_the_model_whatever_its_attention(isolated):
    batch = {key: value for key, value in isolated.items() if key not in ("turn_ids", "position_ids")}
    batch["segments"] = torch.tensor([[0, 4, 0, 0]], dtype=torch.int32)
    for attention in ("sdpa", "packed_sdpa", "torch_varlen", "flash_attention_2"):
        inputs = model_inputs(batch, attention, torch.float32)
        assert inputs["segments"] is batch["segments"]
        assert "attention_mask" not in inputs


@pytest.mark.parametrize("attention", ["flash_attention_2", "torch_varlen"])
def test_isolated_turns_need_an_attention_that_takes_a_mask(isolated, attention):
    with pytest.raises(ValueError, match="isolate_turns needs sdpa or eager"):
        model_inputs(isolated, attention, torch.float32)


@pytest.mark.parametrize(
    ("attention", "may"),
    [
        ("sdpa", True),
        ("packed_sdpa", True),
        ("eager", True),
        ("flex_attention", True),
        ("flash_attention_2", False),
        ("flash_attention_3", False),
        ("kernels-community/flash-attn2", False),
        ("torch_varlen", False),
        ("packed_torch_varlen", False),
    ],
)
def test_several_packed_rows_only_where_a_mask_keeps_samples_apart(processor, samples, attention, may):
    assert may_pack_rows(attention) is may
    packed = SFTCollator(processor, mixture=MIXTURE, max_length=700, packing=True)(samples)
    assert len(packed["input_ids"]) > 1
    if may:
        model_inputs(packed, attention, torch.float32)
    else:
        with pytest.raises(ValueError, match="see each other"):
            model_inputs(packed, attention, torch.float32)
    single = SFTCollator(processor, mixture=MIXTURE, max_length=700, packing=True, single_row=True)(samples)
    assert len(single["input_ids"]) == 1
    assert single["lengths"].max() <= 700
    model_inputs(single, attention, torch.float32)
