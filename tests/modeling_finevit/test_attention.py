"""Every attention implementation equals eager on ragged batches: outputs, gradients, with and without windows."""

import importlib.util

import pytest
import torch
from torch import nn
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from modeling_finevit.attention import has_varlen_kernel
from tests.support.encoder_cases import RAGGED_GRID, make_model, make_patches, relative_error

pytestmark = pytest.mark.model

WINDOWS = {"window_size": 56, "fullatt_block_indexes": [1]}
no_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
no_flash = pytest.mark.skipif(importlib.util.find_spec("flash_attn") is None, reason="flash_attn is not installed")


def outputs_and_gradients(model, grid, patches):
    patches = patches.clone().requires_grad_()
    hidden = model(patches, grid).last_hidden_state
    direction = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(3)).to(hidden)
    (hidden * direction).sum().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return hidden.detach(), gradients | {"pixel_values": patches.grad}


def assert_same(found, expected, tolerance):
    assert relative_error(found[0], expected[0]) < tolerance
    # k_proj.bias has no gradient but rounding: a shift of all scores of a query leaves the softmax alone
    names = [name for name in expected[1] if not name.endswith("k_proj.bias")]
    assert len(names) >= 30
    for name in names:
        assert relative_error(found[1][name], expected[1][name]) < tolerance, name


@pytest.mark.parametrize("implementation", ["sdpa", "torch_varlen", "flex_attention"])
@pytest.mark.parametrize("fields", [{}, WINDOWS, {"qk_norm": True}], ids=["full", "windows", "qk_norm"])
def test_equal_to_eager_on_the_cpu(implementation, fields):
    patches = make_patches(RAGGED_GRID)
    expected = outputs_and_gradients(make_model("eager", **fields), RAGGED_GRID, patches)
    found = outputs_and_gradients(make_model(implementation, **fields), RAGGED_GRID, patches)
    assert_same(found, expected, 1e-5)


def test_windows_and_qk_norm_are_not_the_same_model():
    patches = make_patches(RAGGED_GRID)
    plain = make_model()(patches, RAGGED_GRID).last_hidden_state
    for fields in (WINDOWS, {"qk_norm": True}):
        assert relative_error(make_model(**fields)(patches, RAGGED_GRID).last_hidden_state, plain) > 1e-3


def test_flex_attention_and_its_block_mask_equal_eager_on_the_cpu():
    """Uncompiled: building the CPU kernel takes a minute. The GPU test runs the compiled one, with its backward."""
    patches = make_patches(RAGGED_GRID)
    for fields in ({}, WINDOWS):
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            expected = make_model("eager", **fields)(patches, RAGGED_GRID).last_hidden_state
            found = make_model("flex_attention", **fields)(patches, RAGGED_GRID).last_hidden_state
        assert relative_error(found, expected) < 1e-5


def test_torch_varlen_is_safe_for_text_models():
    """Given to a whole VLM it also reaches the text model, which must keep its mask and its causality."""
    module = nn.Module()
    query, key, value = (torch.randn(2, 4, 6, 32, generator=torch.Generator().manual_seed(i)) for i in range(3))
    mask = torch.rand(2, 1, 6, 6, generator=torch.Generator().manual_seed(4)) > 0.3
    mask |= torch.eye(6, dtype=torch.bool)
    for arguments in ({"attention_mask": mask}, {"attention_mask": None, "is_causal": True}):
        found, _ = ALL_ATTENTION_FUNCTIONS["torch_varlen"](module, query, key, value, **arguments)
        expected, _ = ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, **arguments)
        assert torch.equal(found, expected)
    assert ALL_MASK_ATTENTION_FUNCTIONS["torch_varlen"] is ALL_MASK_ATTENTION_FUNCTIONS["sdpa"]
    assert not has_varlen_kernel(query)


def test_attention_dropout_only_in_training():
    model = make_model("sdpa", attention_dropout=0.5)
    patches = make_patches(RAGGED_GRID)
    expected = make_model("sdpa")(patches, RAGGED_GRID).last_hidden_state
    assert torch.equal(model(patches, RAGGED_GRID).last_hidden_state, expected)
    assert relative_error(model.train()(patches, RAGGED_GRID).last_hidden_state, expected) > 1e-3


# The first four teach the compiler that sizes and numbers vary, with equal lengths apart (reordered inside) and not.
GRID_MIXES = [
    [[1, 4, 6], [1, 8, 4], [1, 6, 6]],
    [[1, 2, 2], [1, 8, 8], [1, 4, 10], [1, 6, 8], [1, 12, 4]],
    [[1, 6, 4], [1, 4, 4], [1, 10, 6], [1, 4, 4]],
    [[1, 8, 4], [1, 4, 4], [1, 12, 6], [1, 8, 4], [1, 6, 6]],
    [[1, 6, 6], [1, 10, 4], [1, 4, 4], [1, 6, 6], [1, 4, 4]],
    [[1, 4, 12], [1, 14, 4]],
    [[1, 8, 8], [1, 8, 8], [1, 8, 8]],
    [[1, 10, 10], [1, 2, 14], [1, 12, 2], [1, 6, 2], [1, 6, 4], [1, 2, 4], [1, 8, 6]],
]


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{}, WINDOWS], ids=["full", "windows"])
def test_compiles_without_recompiling_for_new_mixes(fields):
    """No later mix of sizes or number of images recompiles."""
    torch._dynamo.reset()
    model = make_model("sdpa", **fields)
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        for number, rows in enumerate(GRID_MIXES):
            grid = torch.tensor(rows)
            patches = make_patches(grid)
            with torch._dynamo.config.patch(error_on_recompile=number >= 4):
                found = compiled(patches, grid).last_hidden_state
            assert relative_error(found, model(patches, grid).last_hidden_state) < 1e-5
    torch._dynamo.reset()


def cuda_case(implementation, dtype, **fields):
    model = make_model(implementation, **fields).to("cuda", dtype)
    return outputs_and_gradients(model, RAGGED_GRID, make_patches(RAGGED_GRID).to("cuda", dtype))


@pytest.mark.gpu
@no_cuda
@pytest.mark.parametrize("fields", [{}, WINDOWS], ids=["full", "windows"])
@pytest.mark.parametrize(
    "implementation", ["torch_varlen", "sdpa", "flex_attention", pytest.param("flash_attention_2", marks=no_flash)]
)
def test_equal_to_eager_in_bf16_on_the_gpu(implementation, fields):
    """The deviation from eager in float32 is that of bfloat16 itself: at most twice eager's own."""
    reference = outputs_and_gradients(make_model("eager", **fields), RAGGED_GRID, make_patches(RAGGED_GRID))
    rounded = cuda_case("eager", torch.bfloat16, **fields)
    found = cuda_case(implementation, torch.bfloat16, **fields)
    assert relative_error(found[0].cpu().float(), reference[0]) < 0.05
    for name in reference[1]:
        if not name.endswith("k_proj.bias"):
            own = relative_error(rounded[1][name].cpu().float(), reference[1][name])
            assert relative_error(found[1][name].cpu().float(), reference[1][name]) < 2 * own + 0.01, name


@pytest.mark.gpu
@no_cuda
@pytest.mark.parametrize("implementation", ["sdpa", "flex_attention"])
def test_equal_to_eager_in_fp32_on_the_gpu(implementation):
    assert_same(cuda_case(implementation, torch.float32), cuda_case("eager", torch.float32), 1e-4)


@pytest.mark.gpu
@no_cuda
def test_torch_varlen_compiles_without_recompiling_on_the_gpu():
    torch._dynamo.reset()
    model = make_model("torch_varlen").to("cuda", torch.bfloat16)
    compiled = torch.compile(model)
    with torch.no_grad():
        for number, rows in enumerate(GRID_MIXES):
            grid = torch.tensor(rows)
            patches = make_patches(grid).to("cuda", torch.bfloat16)
            with torch._dynamo.config.patch(error_on_recompile=number >= 4):
                found = compiled(patches, grid).last_hidden_state
            assert relative_error(found.float(), model(patches, grid).last_hidden_state.float()) < 0.03
