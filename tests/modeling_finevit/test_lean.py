"""Steps that keep little for the backward pass: the same numbers as the plain ones, and how much is kept."""

import pytest
import torch
from torch.nn import functional as F

from modeling_finevit import FineViTConfig, FineViTModel
from modeling_finevit.lean import rms_norm, silu_gate


def test_the_norm_has_the_gradients_that_finite_differences_have():
    torch.manual_seed(0)
    states = torch.randn(5, 3, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(8, dtype=torch.float64, requires_grad=True)
    # In float32 inside, so the tolerance is that of float32.
    plain = F.rms_norm(states, (8,), weight, 1e-6)
    lean = rms_norm(states, weight, 1e-6)
    torch.testing.assert_close(lean, plain, rtol=1e-5, atol=1e-5)
    grad = torch.randn_like(plain)
    ours = torch.autograd.grad(lean, (states, weight), grad)
    theirs = torch.autograd.grad(plain, (states, weight), grad)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_norm_is_pytorchs_own_in_every_dtype(dtype):
    torch.manual_seed(0)
    states, weight = torch.randn(40, 96).to(dtype).requires_grad_(), torch.randn(96).requires_grad_()
    lean = rms_norm(states, weight, 1e-6)
    assert lean.dtype == dtype
    with torch.no_grad():
        assert torch.equal(rms_norm(states, weight, 1e-6).float().sign(), lean.float().sign())
        plain = F.rms_norm(states.float(), (96,), weight, 1e-6)
    torch.testing.assert_close(lean.float(), plain, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-5)
    lean.float().square().sum().backward()
    assert states.grad.dtype == dtype
    assert weight.grad.dtype == torch.float32


def test_the_gate_has_the_gradients_that_finite_differences_have():
    torch.manual_seed(0)
    gate, up = (torch.randn(6, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(silu_gate, (gate, up))
    assert torch.equal(silu_gate(gate, up), F.silu(gate) * up)
    with pytest.raises(AssertionError):  # the factors are not alike
        torch.testing.assert_close(silu_gate(gate, up), silu_gate(up, gate))


def kept_bytes(layers):
    """What the backward pass of one picture of 448 x 448 pixels keeps at full width in bfloat16, weights aside."""
    torch.manual_seed(0)
    config = FineViTConfig.from_size("full", num_hidden_layers=layers)
    model = FineViTModel._from_config(config, attn_implementation="sdpa", dtype=torch.bfloat16)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    patches = torch.randn(1024, 588, dtype=torch.bfloat16)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(patches, torch.tensor([[1, 32, 32]]))
    wide = [
        tensor for size, tensor in kept.values() if tensor.dtype == torch.float32 and tensor.numel() >= 1024 * 1536
    ]
    return sum(size for size, _ in kept.values()), len(wide)


def test_a_layer_at_full_width_keeps_less_than_60_megabytes_of_a_picture_and_nothing_wide():
    (one, wide_of_one), (two, wide_of_two) = kept_bytes(1), kept_bytes(2)
    assert 40e6 < two - one < 60e6
    assert wide_of_two == wide_of_one  # the rotation is in float32 and leaves nothing
