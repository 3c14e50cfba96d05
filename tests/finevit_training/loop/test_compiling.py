"""Compiled blocks: whole graphs, few of them over many mixes of sizes, and the same numbers."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from finevit_training.loop.compiling import compile_blocks
from tests.support.encoder_cases import make_model, make_patches
from tests.support.varlen_kernel import kernel_on_the_cpu


@torch.library.custom_op("finevit_tests::varlen", mutates_args=())
def varlen(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bounds: torch.Tensor, longest: int, scale: float
) -> torch.Tensor:
    """The kernel's part played by a reference, opaque to the compiler as the kernel is."""
    return kernel_on_the_cpu(query, key, value, bounds, bounds, longest, longest, scale=scale).contiguous()


@varlen.register_fake
def _(query, key, value, bounds, longest, scale):
    return torch.empty_like(query)


def backward(ctx, grad):
    query, key, value, bounds = ctx.saved_tensors
    with torch.enable_grad():
        inputs = [tensor.detach().requires_grad_() for tensor in (query, key, value)]
        out = kernel_on_the_cpu(*inputs, bounds, bounds, ctx.longest, ctx.longest, scale=ctx.scale)
    return *torch.autograd.grad(out, inputs, grad), None, None, None


def remember(ctx, inputs, output):
    *tensors, ctx.longest, ctx.scale = inputs
    ctx.save_for_backward(*tensors)


varlen.register_autograd(backward, setup_context=remember)


def opaque(query, key, value, cu_q, cu_k, max_q, max_k, *, scale=None, window_size=(-1, -1)):
    return varlen(query, key, value, cu_q, max_q, scale)


@pytest.fixture
def model(monkeypatch):
    torch._dynamo.reset()
    monkeypatch.setattr("modeling_finevit.attention.varlen_attn", opaque)
    monkeypatch.setattr("modeling_finevit.attention.has_varlen_kernel", lambda states: True)
    monkeypatch.setattr("finevit_training.loop.compiling.has_cuda", lambda: True)  # where the kernel is
    yield make_model("torch_varlen", num_hidden_layers=3).train()
    torch._dynamo.reset()


def ragged_grids(count):
    """Different numbers of pictures of different sizes, one of them alone now and then."""
    generator = torch.Generator().manual_seed(0)
    for number in range(count):
        pictures = 1 if number % 17 == 3 else int(torch.randint(2, 6, (), generator=generator))
        sides = 2 * torch.randint(1, 7, (pictures, 2), generator=generator)
        yield torch.cat([torch.ones(pictures, 1, dtype=torch.long), sides], dim=1)


def test_a_hundred_ragged_batches_compile_at_most_twice_and_never_break_a_graph(model):
    counter = CompileCounter()
    compile_blocks(model, backend=counter)  # whole graphs: a break would raise
    for grid in ragged_grids(100):
        model(make_patches(grid), grid).last_hidden_state.sum().backward()
    assert 1 <= counter.frame_count <= 2


def test_compiled_blocks_give_the_same_features_and_gradients(model):
    grid = next(ragged_grids(1))
    patches, names = make_patches(grid), list(model.state_dict())
    plain = model(patches, grid).last_hidden_state
    plain.square().mean().backward()
    gradients = {name: value.grad.clone() for name, value in model.named_parameters()}
    model.zero_grad()
    compile_blocks(model, backend="eager")
    compiled = model(patches, grid).last_hidden_state
    compiled.square().mean().backward()
    torch.testing.assert_close(compiled, plain)
    for name, value in model.named_parameters():
        torch.testing.assert_close(value.grad, gradients[name])
    assert list(model.state_dict()) == names


@pytest.mark.parametrize("attention", ["sdpa", "eager", "torch_varlen"])
def test_attention_that_breaks_graphs_is_refused(attention, monkeypatch):
    monkeypatch.setattr("finevit_training.loop.compiling.has_cuda", lambda: False)
    with pytest.raises(ValueError, match="one by one"):
        compile_blocks(make_model(attention))


def test_a_training_compiles_its_blocks_where_it_is_asked_to(trainer_for):
    assert trainer_for(compile_blocks="auto").args.compiles_blocks is torch.cuda.is_available()
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="compile_blocks"):
            trainer_for(compile_blocks="true")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_compiled_blocks_train_on_the_gpu():
    torch._dynamo.reset()
    grid = next(ragged_grids(1))
    patches = make_patches(grid).to("cuda", torch.bfloat16)
    found = []
    for compiled in (False, True):
        encoder = make_model("torch_varlen").to("cuda", torch.bfloat16).train()
        if compiled:
            compile_blocks(encoder)
        out = encoder(patches, grid).last_hidden_state
        out.square().mean().backward()
        found.append((out.float(), encoder.layers[0].mlp.up_proj.weight.grad.float()))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0.05, atol=0.05 * float(theirs.abs().max()))
