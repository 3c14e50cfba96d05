"""A packed row gives each segment what it gets alone: same loss, same gradients, no trace of its neighbours."""

import importlib.util
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from finevit_vl import FineViTVLForConditionalGeneration
from finevit_vl.losses import IGNORE_INDEX
from finevit_vl.packed_layout import PackedLayout
from tests.support.encoder_cases import relative_error
from tests.support.varlen_kernel import varlen_kernel
from tests.support.vl_models import small_config

__all__ = ["varlen_kernel"]

pytestmark = pytest.mark.model

no_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
no_flash = pytest.mark.skipif(importlib.util.find_spec("flash_attn") is None, reason="flash_attn is not installed")

LENGTH = 48
# Two rows: a picture with three turns and a conversation, then padding; a conversation and a picture with two turns.
SEGMENTS = torch.tensor(
    [
        [0, 9, 0, 0],
        [9, 7, 0, 9],
        [16, 1, 0, 9],
        [17, 12, 0, 9],
        [29, 10, 0, 0],
        [48, 11, 0, 0],
        [59, 8, 0, 0],
        [67, 20, 59, 8],
        [87, 9, 59, 8],
    ],
    dtype=torch.int32,
)
PICTURES = (2, 61)  # where the four image tokens of each begin
SHAPE = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "decoder_sparse_step": 1}
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen3": {},
    "qwen2": {"model_type": "qwen2", **SHAPE},
    "llama": {"model_type": "llama", **SHAPE},
    "mistral": {"model_type": "mistral", **SHAPE, "head_dim": 16, "sliding_window": 5},
    "qwen3_moe": {"model_type": "qwen3_moe", **SHAPE, "head_dim": 16, **EXPERTS},
}


def make_vlm(tokenizer, family="qwen3", attention="sdpa"):
    """Same seed, same weights, wide enough for attention to matter."""
    torch.manual_seed(0)
    text = {"initializer_range": 0.1, **FAMILIES[family]}
    model = FineViTVLForConditionalGeneration(small_config(tokenizer, text=text))
    torch.nn.init.normal_(model.lm_head.weight)
    model.set_attn_implementation({"text_config": attention})
    return model.eval()


@pytest.fixture(scope="module")
def packed(tokenizer):
    """A batch whose every token but the first of a segment has a label."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 900, (2 * LENGTH,), generator=generator)
    labels = torch.full_like(ids, IGNORE_INDEX)
    for start, length, *_ in SEGMENTS.tolist():
        labels[start + 1 : start + length] = ids[start + 1 : start + length]
    for start in PICTURES:
        ids[start : start + 4] = small_config(tokenizer).image_token_id
    return {
        "input_ids": ids.view(2, LENGTH),
        "labels": labels.view(2, LENGTH),
        "pixel_values": torch.randn(32, 588, generator=generator),
        "image_grid_thw": torch.tensor([[1, 4, 4], [1, 4, 4]]),
        "segments": SEGMENTS,
    }


def alone(packed, number):
    """A batch of one with a segment behind its prefix, and the length of the prefix."""
    start, length, prefix_start, prefix_length = SEGMENTS[number].tolist()
    tokens = [*range(prefix_start, prefix_start + prefix_length), *range(start, start + length)]
    batch = {key: packed[key].flatten()[tokens][None] for key in ("input_ids", "labels")}
    batch["labels"][0, :prefix_length] = IGNORE_INDEX
    seen = [picture for picture, at in enumerate(PICTURES) if at in tokens]
    if seen:
        batch["pixel_values"] = packed["pixel_values"][16 * seen[0] : 16 * seen[0] + 16]
        batch["image_grid_thw"] = packed["image_grid_thw"][:1]
    return batch, prefix_length


def summed_loss(logits, labels):
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")


def loss_and_gradients(model, batches):
    """Of all batches' tokens together."""
    model.zero_grad()
    total = 0.0
    for batch in batches:
        loss = summed_loss(model(**{k: v for k, v in batch.items() if k != "labels"}).logits.float(), batch["labels"])
        loss.backward()
        total += loss.item()
    return total, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def each_alone(model, packed):
    return loss_and_gradients(model, [alone(packed, number)[0] for number in range(len(SEGMENTS))])


def assert_same(found, expected, tolerance=1e-5):
    assert found[0] == pytest.approx(expected[0], rel=tolerance)
    assert found[1].keys() == expected[1].keys()
    # k_proj.bias has no gradient but rounding: a shift of all scores of a query leaves the softmax alone
    names = [name for name in expected[1] if not name.endswith("k_proj.bias")]
    assert len(names) >= 16  # what adapters have
    for name in names:
        assert relative_error(found[1][name], expected[1][name]) < tolerance, name


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def expected(tokenizer, packed, family):
    """Loss and gradients of each segment alone."""
    return each_alone(make_vlm(tokenizer, family, "eager"), packed)


@pytest.mark.parametrize("attention", ["sdpa", "eager", "torch_varlen", "flex_attention"])
def test_loss_and_gradients_are_those_of_each_segment_alone(tokenizer, packed, family, expected, attention):
    assert_same(loss_and_gradients(make_vlm(tokenizer, family, attention), [packed]), expected)


def test_the_kernel_on_gathered_keys_gives_the_same(varlen_kernel, tokenizer, packed, family, expected):
    assert_same(loss_and_gradients(make_vlm(tokenizer, family, "torch_varlen"), [packed]), expected)


@pytest.mark.parametrize("family", ["qwen3", "mistral"])
def test_flex_attention_and_its_block_mask_give_the_same_on_the_cpu(tokenizer, packed, family):
    """Uncompiled and forward alone: PyTorch has no backward of it on a CPU. A row of 160 tokens has two blocks."""
    wide = {key: F.pad(packed[key], (0, 112), value=0) for key in ("input_ids", "labels")}
    moved = SEGMENTS.clone()
    moved[:, 0] += (SEGMENTS[:, 0] >= LENGTH) * 112
    moved[:, 2] += (SEGMENTS[:, 2] >= LENGTH) * 112
    wide = {**packed, **wide, "segments": moved}
    logits = []
    for attention in ("eager", "flex_attention"):
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            logits.append(make_vlm(tokenizer, family, attention)(**wide).logits)
    tokens = PackedLayout.read(moved, wide["input_ids"]).token_mask.bool()
    assert relative_error(logits[1][tokens], logits[0][tokens]) < 1e-5


def test_long_segments_give_the_same(tokenizer):
    """Beyond what is computed by plain products on a CPU: causal without a mask, and a turn that sees its prefix."""
    ids = torch.randint(0, 900, (1, 1260), generator=torch.Generator().manual_seed(0))
    model, segments = make_vlm(tokenizer), [[0, 1100, 0, 0], [1100, 90, 0, 0], [1190, 70, 0, 1100]]
    with torch.no_grad():
        found = model(input_ids=ids, segments=torch.tensor(segments)).logits
        alone = [model(input_ids=ids[:, :1100]).logits, model(input_ids=ids[:, 1100:1190]).logits]
        behind = model(input_ids=torch.cat([ids[:, :1100], ids[:, 1190:]], dim=1)).logits[:, 1100:]
    assert relative_error(found, torch.cat([*alone, behind], dim=1)) < 1e-5


SINKS = {"model_type": "gpt_oss", **SHAPE, "head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2}


@pytest.fixture
def with_sinks(monkeypatch):
    monkeypatch.setitem(FAMILIES, "gpt_oss", {**SINKS, "sliding_window": 5})


def make_with_sinks(tokenizer, attention):
    model = make_vlm(tokenizer, "gpt_oss", attention)
    for layer in model.model.language_model.layers:
        torch.nn.init.normal_(layer.self_attn.sinks, std=2.0)
    return model


def test_attention_sinks_count_in_packed_rows_too(with_sinks, tokenizer, packed):
    """sdpa, which flex_attention's place is taken by in training on a CPU, would drop them without a word."""
    inputs = {key: value for key, value in packed.items() if key != "labels"}
    found = [make_with_sinks(tokenizer, name)(**inputs).logits for name in ("eager", "flex_attention")]
    tokens = PackedLayout.read(SEGMENTS, packed["input_ids"]).token_mask.bool()
    assert relative_error(found[1][tokens], found[0][tokens]) < 1e-5
    batch, prefix = alone(packed, 3)
    expected = make_with_sinks(tokenizer, "eager")(**batch).logits[0, prefix:]
    assert relative_error(found[0].flatten(0, 1)[17:29], expected) < 1e-5


def test_torch_varlen_refuses_attention_sinks(with_sinks, tokenizer, packed):
    model = make_with_sinks(tokenizer, "torch_varlen")
    with pytest.raises(ValueError, match="torch_varlen has no attention sinks"):
        model(**packed)
    with pytest.raises(ValueError, match="torch_varlen has no attention sinks"):
        model(input_ids=packed["input_ids"][:, 10:20])


def test_a_language_model_that_attends_in_both_directions_is_refused(monkeypatch, tokenizer, packed):
    both = {"model_type": "gemma3_text", **SHAPE, "head_dim": 16, "use_bidirectional_attention": True}
    monkeypatch.setitem(FAMILIES, "both", both)
    with pytest.raises(ValueError, match="Gemma3Attention attends in both directions"):
        make_vlm(tokenizer, "both")(**packed)


def test_a_window_that_only_a_mask_knows_is_refused(monkeypatch, tokenizer, packed):
    """Phi-3.5-MoE's layers do not hand it to their attention; its published window is as long as its context."""
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 16}
    monkeypatch.setitem(FAMILIES, "phimoe", {"model_type": "phimoe", **SHAPE, **experts, "sliding_window": 5})
    with pytest.raises(ValueError, match="PhimoeAttention keeps its sliding_window of 5 tokens in a mask"):
        make_vlm(tokenizer, "phimoe")(**packed)
    monkeypatch.setitem(FAMILIES["phimoe"], "sliding_window", 28)  # of the longest segment, with its picture
    make_vlm(tokenizer, "phimoe")(**packed)


def test_a_window_that_flash_attention_alone_knows_is_refused(monkeypatch, tokenizer, packed):
    """OLMoE's layers hand it to their attention, and no mask of it has one, so its implementations differ."""
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "hidden_size": 128}
    monkeypatch.setitem(FAMILIES, "olmoe", {**SHAPE, **experts, "model_type": "olmoe", "sliding_window": 5})
    with pytest.raises(ValueError, match="OlmoeAttention has its sliding_window of 5 tokens with flash"):
        make_vlm(tokenizer, "olmoe")(**packed)
    monkeypatch.setitem(FAMILIES["olmoe"], "sliding_window", None)
    make_vlm(tokenizer, "olmoe")(**packed)


@pytest.mark.parametrize("model_type", ["doge", "nemotron"])
def test_layers_that_make_masks_of_their_own_are_refused(monkeypatch, tokenizer, packed, model_type):
    """They ended in an error about shapes. Errors of layers that read the segments stay what they are."""
    monkeypatch.setitem(FAMILIES, model_type, {"model_type": model_type, **SHAPE})
    with pytest.raises(ValueError, match=f"those of {model_type} make something of the mask themselves"):
        make_vlm(tokenizer, model_type)(**packed)
    model = make_vlm(tokenizer)
    model.model.language_model.norm.forward = lambda states: states @ states
    with pytest.raises(RuntimeError, match="size"):
        model(**packed)


def test_another_table_gives_another_loss(tokenizer, packed):
    """The negative control of everything above: one conversation a row."""
    model = make_vlm(tokenizer)
    whole = torch.tensor([[0, LENGTH, 0, 0], [LENGTH, LENGTH, 0, 0]])
    with torch.no_grad():
        found, other = (model(**{**packed, "segments": table}).loss for table in (SEGMENTS, whole))
    assert abs(found - other) > 1e-2


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_computes_the_same_again(tokenizer, packed, reentrant):
    """The second forward happens in backward, here after another forward without segments."""
    expected = loss_and_gradients(make_vlm(tokenizer), [packed])
    model = make_vlm(tokenizer).train()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    inputs = {key: value for key, value in packed.items() if key != "labels"}
    loss = summed_loss(model(**inputs).logits, packed["labels"])
    model(input_ids=packed["input_ids"][:, 10:20])
    loss.backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert_same((loss.item(), found), expected)


def test_attention_computes_in_bfloat16_under_autocast(varlen_kernel, tokenizer, packed):
    """Qwen3's norms leave float32 queries; the reference kernel refuses mixed dtypes."""
    expected = each_alone(make_vlm(tokenizer), packed)
    for attention in ("sdpa", "eager", "torch_varlen"):
        model = make_vlm(tokenizer, "qwen3", attention)
        with torch.autocast("cpu", torch.bfloat16):
            found = loss_and_gradients(model, [packed])
        assert found[0] == pytest.approx(expected[0], rel=0.02)
        for name, gradient in found[1].items():
            assert torch.isfinite(gradient).all(), name


def test_adapters_learn_from_packed_rows(tokenizer, packed):
    peft = pytest.importorskip("peft")

    def adapted():
        config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        torch.manual_seed(3)
        return peft.get_peft_model(make_vlm(tokenizer), config)

    assert_same(loss_and_gradients(adapted(), [packed]), each_alone(adapted(), packed))


def test_distributed_data_parallel_passes_segments_on(tokenizer, packed, tmp_path):
    expected = loss_and_gradients(make_vlm(tokenizer), [packed])
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.FileStore(str(tmp_path / "s"), 1), rank=0, world_size=1
    )
    try:
        model = torch.nn.parallel.DistributedDataParallel(make_vlm(tokenizer))
        found = loss_and_gradients(model, [packed])
    finally:
        torch.distributed.destroy_process_group()
    assert_same((found[0], {name.removeprefix("module."): value for name, value in found[1].items()}), expected)


class TestLeaks:
    """Segment 3 (a turn) and 4 (a conversation) are changed; nothing but they may notice."""

    def changed(self, packed, number):
        start, length, *_ = SEGMENTS[number].tolist()
        ids = packed["input_ids"].flatten().clone()
        ids[start : start + length] = (ids[start : start + length] + 17) % 900
        return {**packed, "input_ids": ids.view(2, LENGTH)}

    def differences(self, model, packed, number, segments=SEGMENTS):
        """Largest change of each segment's logits when the tokens of one are exchanged."""
        with torch.no_grad():
            before, after = (
                model(**{**batch, "segments": segments}).logits.flatten(0, 1)
                for batch in (packed, self.changed(packed, number))
            )
        moved = (before - after).abs().amax(-1)
        return [moved[start : start + length].max().item() for start, length, *_ in SEGMENTS.tolist()]

    @pytest.mark.parametrize("attention", ["sdpa", "eager", "torch_varlen"])
    @pytest.mark.parametrize("number", [3, 4, 7])
    def test_no_segment_notices_what_its_neighbour_says(self, varlen_kernel, tokenizer, packed, attention, number):
        moved = self.differences(make_vlm(tokenizer, "qwen3", attention), packed, number)
        assert moved[number] > 1e-2
        assert max(moved[:number] + moved[number + 1 :]) == 0

    def test_a_turn_notices_its_picture(self, tokenizer, packed):
        moved = self.differences(make_vlm(tokenizer), {**packed, "pixel_values": None}, 5)
        assert [value > 0 for value in moved] == [number == 5 for number in range(9)]
        prefix = {**packed, "pixel_values": packed["pixel_values"].flip(0)}
        model = make_vlm(tokenizer)
        with torch.no_grad():
            moved = (model(**prefix).logits - model(**packed).logits).abs().amax(-1).flatten()
        for start, length, *_ in SEGMENTS[[1, 3, 7, 8]].tolist():
            assert moved[start : start + length].min() > 1e-4
        assert moved[29:39].max() == moved[48:59].max() == 0

    def test_with_a_wrong_table_they_notice(self, tokenizer, packed):
        wrong = SEGMENTS.clone()
        wrong[3] = torch.tensor([17, 22, 0, 9])  # the turn and the conversation behind it in one
        wrong = wrong[[0, 1, 2, 3, 5, 6, 7, 8]]
        moved = self.differences(make_vlm(tokenizer), packed, 3, wrong)
        assert moved[4] > 1e-2

    def test_padding_is_finite_and_reaches_nobody(self, tokenizer, packed):
        """Whatever stands there, the router's loss included."""
        for attention in ("sdpa", "eager"):
            model = make_vlm(tokenizer, "qwen3_moe", attention)
            other = {**packed, "input_ids": packed["input_ids"].clone()}
            other["input_ids"][0, 39:] = 3
            with torch.no_grad():
                outputs = [model(**batch, output_router_logits=True) for batch in (packed, other)]
            assert torch.isfinite(outputs[0].logits).all()
            assert torch.equal(outputs[0].logits[0, :39], outputs[1].logits[0, :39])
            assert torch.equal(outputs[0].logits[1], outputs[1].logits[1])
            assert torch.equal(outputs[0].loss, outputs[1].loss)


class TestOtherCalls:
    @pytest.mark.parametrize("attention", ["sdpa", "eager", "torch_varlen"])
    def test_calls_without_segments_are_answered_as_before(self, tokenizer, packed, attention):
        """To the bit, with and without a mask, in packed rows by their positions and in generation."""
        ids = packed["input_ids"] % 900
        mask = (torch.arange(LENGTH) < torch.tensor([[40], [48]])).long()
        positions = torch.cat([torch.arange(20), torch.arange(28)]).expand(2, -1)
        calls = [{}, {"attention_mask": mask}, {"position_ids": positions}]
        model, results = make_vlm(tokenizer, "qwen3", attention), []
        for _ in range(2):
            with torch.no_grad():
                results.append([model(input_ids=ids, **call).logits for call in calls])
                results[-1].append(model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=4))
                model(**packed)
        assert model.config.text_config._attn_implementation == f"packed_{attention}"
        assert all(torch.equal(first, second) for first, second in zip(*results, strict=True))

    def test_the_name_is_not_saved(self, tokenizer, packed, tmp_path):
        model = make_vlm(tokenizer)
        model(**packed)
        model.save_pretrained(tmp_path)
        assert "packed_" not in (tmp_path / "config.json").read_text()
        loaded = FineViTVLForConditionalGeneration.from_pretrained(tmp_path)
        assert loaded.config.text_config._attn_implementation == "sdpa"


class TestRefusals:
    @pytest.mark.parametrize(
        "given",
        [{"attention_mask": torch.ones(2, LENGTH)}, {"use_cache": True}, {"output_attentions": True}],
        ids=lambda given: next(iter(given)),
    )
    def test_what_segments_go_without(self, tokenizer, packed, given):
        with pytest.raises(ValueError, match=f"leave {next(iter(given))} out"):
            make_vlm(tokenizer)(**{key: value for key, value in packed.items() if key != "labels"}, **given)

    def test_layers_that_do_not_attend(self, tokenizer, packed):
        model = make_vlm(tokenizer)
        model.config.text_config.layer_types = ["full_attention", "linear_attention"]
        with pytest.raises(ValueError, match="has linear_attention: pad instead of packing"):
            model(**packed)

    def test_an_attention_that_knows_no_segments(self, tokenizer, packed):
        model = make_vlm(tokenizer)
        model.config.text_config._attn_implementation_internal = "paged|eager"
        with pytest.raises(ValueError, match=r"'paged\|eager' attention .* knows no segments"):
            model(**packed)

    def test_flash_attention_2_cannot_share_a_picture(self, tokenizer, packed):
        model = make_vlm(tokenizer)
        model.config.text_config._attn_implementation_internal = "flash_attention_2"
        with pytest.raises(ValueError, match='"text_config": "torch_varlen"'):
            model(**packed)


@pytest.mark.gpu
@no_cuda
@pytest.mark.parametrize("attention", ["torch_varlen", "sdpa", "flex_attention"])
def test_equal_to_each_alone_in_bf16_on_the_gpu(tokenizer, packed, attention):
    """The deviation from float32 is that of bfloat16 itself: at most twice what each segment alone has."""
    reference = each_alone(make_vlm(tokenizer, "qwen3", "eager"), packed)
    on_gpu = {key: value.cuda() for key, value in packed.items()}
    with torch.autocast("cuda", torch.bfloat16):
        rounded = each_alone(make_vlm(tokenizer, "qwen3", "eager").cuda(), on_gpu)
        found = loss_and_gradients(make_vlm(tokenizer, "qwen3", attention).cuda(), [on_gpu])
    assert found[0] == pytest.approx(reference[0], rel=0.02)
    for name, gradient in reference[1].items():
        own = relative_error(rounded[1][name].cpu(), gradient)
        assert relative_error(found[1][name].cpu(), gradient) < 2 * own + 0.01, name


@pytest.mark.gpu
@no_cuda
@no_flash
def test_flash_attention_2_keeps_conversations_apart_on_the_gpu(tokenizer):
    table = torch.tensor([[0, 20, 0, 0], [20, 28, 0, 0], [48, 40, 0, 0]])
    ids = torch.randint(0, 900, (2, LENGTH), generator=torch.Generator().manual_seed(0))
    logits = []
    for attention in ("eager", "flash_attention_2"):
        model = make_vlm(tokenizer, "qwen3", attention).to("cuda", torch.bfloat16)
        with torch.no_grad():
            logits.append(model(input_ids=ids.cuda(), segments=table).logits.float().flatten(0, 1)[:88])
    assert relative_error(logits[1], logits[0]) < 0.05
