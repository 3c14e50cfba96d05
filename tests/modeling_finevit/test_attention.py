"""Every attention implementation equals eager on ragged batches: outputs, gradients, with and without windows."""

import importlib.util
import warnings
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForCausalLM, MistralConfig, Qwen3Config
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from modeling_finevit.attention import has_varlen_kernel
from tests.support.encoder_cases import RAGGED_GRID, make_model, make_patches, relative_error
from tests.support.varlen_kernel import varlen_kernel

__all__ = ["varlen_kernel"]

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


TEXT = {
    "hidden_size": 128,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 100,
}


def padding_free(model, ids, lengths):
    """Logits as `DataCollatorWithFlattening(return_flash_attn_kwargs=True)` asks for them."""
    boundaries = nn.functional.pad(torch.tensor(lengths).cumsum(0), (1, 0)).to(torch.int32)
    arguments: dict[str, Any] = {"cu_seq_lens_q": boundaries, "cu_seq_lens_k": boundaries}
    arguments |= {"max_length_q": max(lengths), "max_length_k": max(lengths)}
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    with torch.no_grad():
        return model(input_ids=ids, position_ids=positions.to(ids.device), use_cache=False, **arguments).logits[0]


@pytest.mark.parametrize("case", ["qwen3", "mistral"])
def test_torch_varlen_with_padding_free_arguments_is_causal_over_grouped_heads(varlen_kernel, case):
    """Each sequence as if it were alone; Mistral's window of three positions reaches the kernel too."""
    torch.manual_seed(0)
    if case == "mistral":
        config: Any = MistralConfig(**TEXT, sliding_window=3)
    else:
        config = Qwen3Config(**TEXT)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="torch_varlen").eval()
    alone = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    alone.load_state_dict(model.state_dict())
    lengths = [7, 1, 5]
    ids = torch.randint(0, 100, (1, 13), generator=torch.Generator().manual_seed(0))
    found = padding_free(model, ids, lengths)
    with torch.no_grad():
        expected = torch.cat([alone(input_ids=part).logits[0] for part in ids.split(lengths, dim=1)])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    changed = ids.clone()
    changed[0, 4] += 1
    difference = (padding_free(model, changed, lengths) - found).abs().amax(-1)
    assert difference[:4].max() == 0
    assert difference[4:7].min() > 1e-4
    assert difference[7:].max() == 0


def test_torch_varlen_of_the_encoder_equals_eager_with_the_kernel_too(varlen_kernel):
    patches = make_patches(RAGGED_GRID)
    for fields in ({}, WINDOWS):
        expected = outputs_and_gradients(make_model("eager", **fields), RAGGED_GRID, patches)
        assert_same(outputs_and_gradients(make_model("torch_varlen", **fields), RAGGED_GRID, patches), expected, 1e-5)


def test_torch_varlen_refuses_what_its_kernel_has_not(varlen_kernel):
    states = torch.randn(1, 4, 6, 32)
    boundaries = torch.tensor([0, 6], dtype=torch.int32)
    for option in ("dropout", "softcap"):
        with pytest.raises(ValueError, match=f"no {option}"):
            ALL_ATTENTION_FUNCTIONS["torch_varlen"](
                nn.Module(), states, states, states, None, cu_seq_lens_q=boundaries, max_length_q=6, **{option: 0.5}
            )


@pytest.mark.parametrize(
    ("width", "dtype", "runs"), [(24, "bfloat16", True), (20, "bfloat16", False), (24, "float32", False)]
)
def test_the_kernel_takes_16_bits_and_heads_in_multiples_of_8(width, dtype, runs):
    with FakeTensorMode():  # a CUDA tensor without a GPU
        assert has_varlen_kernel(torch.empty(6, 4, width, dtype=getattr(torch, dtype), device="cuda")) is runs


def test_queries_keys_and_values_have_one_dtype_under_autocast(monkeypatch):
    """qk_norm's weights are float32 there; a kernel call of mixed dtypes would fall back, image by image."""
    seen = []

    def spy(module, query, key, value, *args, **kwargs):
        seen.append({query.dtype, key.dtype, value.dtype})
        return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, *args, **kwargs)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "sdpa_spied", spy)
    model = make_model("sdpa", qk_norm=True)
    model.config._attn_implementation_internal = "sdpa_spied"
    with torch.autocast("cpu", torch.bfloat16), warnings.catch_warnings():
        warnings.simplefilter("error")  # "Mismatch dtype between input and weight"
        model(make_patches(RAGGED_GRID), RAGGED_GRID)
    assert seen
    assert all(dtypes == {torch.bfloat16} for dtypes in seen)


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


@pytest.mark.gpu
@no_cuda
def test_torch_varlen_is_causal_with_padding_free_arguments_on_the_gpu():
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(Qwen3Config(**TEXT), attn_implementation="torch_varlen")
    model = model.to("cuda", torch.bfloat16).eval()
    ids = torch.randint(0, 100, (1, 13), generator=torch.Generator().manual_seed(0)).cuda()
    changed = ids.clone()
    changed[0, 4] += 1
    difference = (padding_free(model, changed, [7, 1, 5]) - padding_free(model, ids, [7, 1, 5])).abs().amax(-1)
    assert difference[:4].max() == difference[7:].max() == 0
    assert difference[4:7].min() > 0
