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
    targets[~mask] += 100.0
    assert torch.equal(model(patches, RAGGED_GRID, bool_masked_pos=mask, targets=targets).loss, outputs.loss)
    outputs.loss.backward()
    assert model.mask_token.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="bool_masked_pos"):
        model(patches, RAGGED_GRID, targets=targets)
    with pytest.raises(ValueError, match="entries"):
        model(patches, RAGGED_GRID, bool_masked_pos=mask[:-1])


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
    for ours, theirs in zip(encoder.parameters(), model.vision_model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
