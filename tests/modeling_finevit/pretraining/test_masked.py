"""FineViTForMaskedImageModeling: what it sees, its loss, and the way from its checkpoint to the encoder's."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForMaskedImageModeling

from modeling_finevit import FineViTForMaskedImageModeling, FineViTModel
from tests.support.encoder_cases import RAGGED_GRID, make_model, make_patches, relative_error

pytestmark = pytest.mark.model


def make_mim(**fields):
    torch.manual_seed(0)
    return FineViTForMaskedImageModeling(make_model(**fields).config).eval()


def test_masked_image_modelling_never_sees_the_masked_pixels():
    model, patches = make_mim(), make_patches(RAGGED_GRID)
    mask = torch.rand(len(patches), generator=torch.Generator().manual_seed(2)) < 0.75
    expected = model(patches, RAGGED_GRID, bool_masked_pos=mask).reconstruction
    assert expected.shape == (len(patches), 48)
    other = torch.where(mask[:, None], torch.randn_like(patches), patches)
    assert torch.equal(model(other, RAGGED_GRID, bool_masked_pos=mask).reconstruction, expected)
    visible = torch.where(mask[:, None], patches, torch.randn_like(patches))
    assert relative_error(model(visible, RAGGED_GRID, bool_masked_pos=mask).reconstruction, expected) > 1e-3


def test_masked_image_modelling_loss_is_l2_on_masked_patches_only():
    model, patches = make_mim(), make_patches(RAGGED_GRID)
    mask = torch.rand(len(patches), generator=torch.Generator().manual_seed(2)) < 0.75
    targets = torch.randn(len(patches), 48)
    outputs = model(patches, RAGGED_GRID, bool_masked_pos=mask, targets=targets)
    expected = torch.nn.functional.mse_loss(outputs.reconstruction[mask], targets[mask])
    torch.testing.assert_close(outputs.loss, expected)
    others = torch.where(mask[:, None], targets, targets + 100.0)
    assert torch.equal(model(patches, RAGGED_GRID, bool_masked_pos=mask, targets=others).loss, outputs.loss)
    outputs.loss.backward()
    assert model.mask_token.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="bool_masked_pos"):
        model(patches, RAGGED_GRID, targets=targets)
    with pytest.raises(ValueError, match="entries"):
        model(patches, RAGGED_GRID, bool_masked_pos=mask[:-1])
    with pytest.raises(ValueError, match=r"the head predicts \(\d+, 48\)"):
        model(patches, RAGGED_GRID, bool_masked_pos=mask, targets=targets[:, 1:])


def test_the_loss_on_all_patches_is_the_mean_of_all():
    model, patches = make_mim(loss_on="all"), make_patches(RAGGED_GRID)
    mask, targets = torch.arange(len(patches)) % 2 == 0, torch.randn(len(patches), 48)
    outputs = model(patches, RAGGED_GRID, bool_masked_pos=mask, targets=targets)
    torch.testing.assert_close(outputs.loss, torch.nn.functional.mse_loss(outputs.reconstruction, targets))
    targets[~mask] += 100.0
    assert model(patches, RAGGED_GRID, bool_masked_pos=mask, targets=targets).loss > 100 * outputs.loss


@pytest.mark.parametrize("loss_on", ["masked", "all"])
def test_losses_of_parts_divided_by_the_whole_add_up_to_the_loss_of_the_whole(loss_on):
    model, patches = make_mim(loss_on=loss_on), make_patches(RAGGED_GRID)
    mask, targets = torch.arange(len(patches)) % 3 == 0, torch.randn(len(patches), 48)
    whole = model(patches, RAGGED_GRID, bool_masked_pos=mask, targets=targets).loss
    lengths = RAGGED_GRID.prod(-1).tolist()
    count = mask.sum() if loss_on == "masked" else len(patches)
    parts = [
        model(part, grid[None], bool_masked_pos=masked, targets=target, num_items_in_batch=count).loss
        for part, grid, masked, target in zip(
            patches.split(lengths), RAGGED_GRID, mask.split(lengths), targets.split(lengths), strict=True
        )
    ]
    torch.testing.assert_close(sum(parts), whole)


def test_with_l2_the_loss_is_that_of_the_cosine():
    model, patches = make_mim(target_norm="l2"), make_patches(RAGGED_GRID)
    mask, targets = torch.arange(len(patches)) % 2 == 0, torch.randn(len(patches), 48)
    outputs = model(patches, RAGGED_GRID, bool_masked_pos=mask, targets=targets)
    cosine = torch.nn.functional.cosine_similarity(outputs.reconstruction[mask], targets[mask]).mean()
    torch.testing.assert_close(outputs.loss, 2 - 2 * cosine)


def test_pixels_of_a_patch_are_normalised_to_mean_0_and_variance_1_as_in_mae():
    model, patches = make_mim(target_norm="layer_norm", teacher_hidden_size=588), make_patches(RAGGED_GRID)
    mask = torch.arange(len(patches)) % 2 == 0
    outputs = model(patches, RAGGED_GRID, bool_masked_pos=mask, targets=patches)
    mean, variance = patches.mean(-1, keepdim=True), patches.var(-1, keepdim=True, correction=0)
    expected = (patches - mean) / (variance + 1e-6).sqrt()
    torch.testing.assert_close(
        outputs.loss, torch.nn.functional.mse_loss(outputs.reconstruction[mask], expected[mask])
    )
    brighter = model(patches, RAGGED_GRID, bool_masked_pos=mask, targets=3 * patches + 7)
    torch.testing.assert_close(brighter.loss, outputs.loss)


def test_the_loss_is_taken_in_float32_whatever_the_model_computes_in():
    model = make_mim(target_norm="none", teacher_hidden_size=588)
    patches = make_patches(RAGGED_GRID)
    mask = torch.ones(len(patches), dtype=torch.bool)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(patches, RAGGED_GRID, bool_masked_pos=mask, targets=patches)
    assert outputs.reconstruction.dtype is torch.bfloat16
    expected = (outputs.reconstruction.double() - patches.double()).square().mean()
    assert relative_error(outputs.loss.double(), expected) < 1e-6


def test_a_pack_without_pictures_has_the_loss_zero():
    model = make_mim().train()
    no_patches, no_mask = torch.zeros(0, 588), torch.zeros(0, dtype=torch.bool)
    no_grid = torch.zeros(0, 3, dtype=torch.long)
    loss = model(no_patches, no_grid, bool_masked_pos=no_mask, targets=torch.zeros(0, 48)).loss
    loss.backward()
    assert loss == 0


def test_masked_image_modelling_learns():
    model, patches = make_mim().train(), make_patches(RAGGED_GRID)
    mask = torch.rand(len(patches), generator=torch.Generator().manual_seed(2)) < 0.5
    targets = torch.nn.functional.normalize(patches[:, :48], dim=-1)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(30):
        loss = model(patches, RAGGED_GRID, bool_masked_pos=mask, targets=targets).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_the_encoder_loads_out_of_a_masked_image_modelling_checkpoint(tmp_path):
    model = make_mim()
    model.save_pretrained(tmp_path)
    assert type(AutoModelForMaskedImageModeling.from_pretrained(tmp_path)) is FineViTForMaskedImageModeling
    loaded: Any = FineViTModel.from_pretrained(tmp_path, output_loading_info=True)
    encoder, info = loaded
    assert not info["missing_keys"]
    assert not info["unexpected_keys"], "which transformers would warn of"
    for ours, theirs in zip(encoder.parameters(), model.vision_model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_what_is_neither_the_encoders_nor_of_stage_one_is_warned_of(tmp_path):
    model, foreign = make_mim(), ("head.0.weight", "neck.weight")
    model.save_pretrained(tmp_path, state_dict=model.state_dict() | {name: torch.ones(4) for name in foreign})
    loaded: Any = FineViTModel.from_pretrained(tmp_path, output_loading_info=True)
    assert set(loaded[1]["unexpected_keys"]) == set(foreign)
