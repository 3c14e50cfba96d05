"""A small encoder and a ragged batch for the tests of the encoder."""

import torch

from modeling_finevit import FineViTConfig, FineViTModel

# Odd shapes: equal lengths from different grids, neighbours and not, one single merge block, a thin strip.
RAGGED_GRID = torch.tensor([[1, 4, 6], [1, 10, 14], [1, 6, 4], [1, 2, 2], [1, 18, 2], [1, 4, 6]])


def make_model(attn_implementation="eager", **overrides):
    """Same seed, same weights: two layers of width 128 (head width 32), biases and norms away from their start."""
    torch.manual_seed(0)
    fields = {"num_hidden_layers": 2, "teacher_hidden_size": 48, "initializer_range": 0.1} | overrides
    config = FineViTConfig.from_size("nano", **fields)
    model = FineViTModel._from_config(config, attn_implementation=attn_implementation)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return model.eval()


def make_patches(grid, seed=0):
    return torch.randn(int(grid.prod(-1).sum()), 588, generator=torch.Generator().manual_seed(seed))


def relative_error(actual, expected):
    """Largest deviation in units of the expected tensor's largest value."""
    return ((actual - expected).abs().max() / expected.abs().max()).item()
