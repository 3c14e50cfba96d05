"""Recipes: flags over file, unknown keys refused, the shipped ones whole, the resolved one runs again."""

import pytest
import torch
import yaml
from transformers import AutoConfig

from finevit_training.loop.speed import FlopCounter, measure_peak_flops
from finevit_training.recipe import has_bf16, parse_recipe, read_recipe, resolved
from finevit_vl import FineViTVLForConditionalGeneration
from finevit_vl.configuration_finevit_vl import FineViTVLConfig
from modeling_finevit import FineViTConfig
from tests.support.paths import SFT_RECIPES

MODEL_RECIPES = ["nano_cpu.yaml", "gpu_1x.yaml", "full_8x.yaml"]


def write(tmp_path, **values):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"size": "nano", "data": ["corpus"], **values}))
    return str(path)


@pytest.mark.parametrize("name", MODEL_RECIPES)
def test_shipped_recipes_parse(name):
    flags = [] if torch.cuda.is_available() else ["--bf16", "false"]
    recipe = parse_recipe(["--recipe", str(SFT_RECIPES / name), *flags])
    assert recipe.training.max_minutes or recipe.training.num_train_epochs == 1
    assert recipe.training.bf16 is (torch.cuda.is_available() and recipe.training.bf16)


def test_flags_win_over_the_file(tmp_path):
    path = write(tmp_path, learning_rate=1e-4, mixture={"transcribe": 1}, max_steps=7)
    recipe = parse_recipe(["--recipe", path, "--learning_rate", "2e-4", "--mixture", '{"qa": 2}'])
    assert recipe.training.learning_rate == 2e-4
    assert recipe.training.max_steps == 7
    assert recipe.data.stages == {"qa": 2}


@pytest.mark.parametrize("key", ["lerning_rate", "max_step", "pack"])
def test_unknown_keys_are_refused_in_file_and_flags(tmp_path, key):
    with pytest.raises(ValueError, match=key):
        parse_recipe(["--recipe", write(tmp_path, **{key: 1})])
    with pytest.raises(ValueError, match=key):
        parse_recipe(["--size", "nano", "--data", "x", f"--{key}", "1"])


def test_the_resolved_recipe_gives_the_same_run_again(tmp_path):
    stages = [{"until": 0.5, "mixture": {"transcribe": 1}}, {"until": 1.0, "mixture": {"qa": 3}}]
    path = write(tmp_path, mixture=stages, bf16="auto", warmup_steps=0.1, text_config={"num_hidden_layers": 2})
    first = resolved(parse_recipe(["--recipe", path, "--max_minutes", "3"]))
    assert first["bf16"] is has_bf16()
    assert first["max_minutes"] == 3
    assert not [value for value in first.values() if str(value).startswith("<")]
    again = tmp_path / "again.yaml"
    again.write_text(yaml.safe_dump(first))
    assert resolved(parse_recipe(["--recipe", str(again)])) == first


@pytest.mark.parametrize(
    "flags",
    [["--max_minutes", "-1"], ["--train_tower", "false", "--train_llm", "false", "--train_projector", "false"]],
)
def test_values_that_make_no_run_are_refused(flags):
    with pytest.raises(ValueError, match=r"max_minutes|nothing to train"):
        parse_recipe(["--size", "nano", "--data", "x", *flags])


def test_full_recipe_builds_on_the_meta_device_and_fsdp_wraps_its_layers():
    """FineViT-full and a language model of Qwen3-1.7B's published shape, without their weights."""
    qwen3_1_7b = AutoConfig.for_model(
        "qwen3", hidden_size=2048, num_hidden_layers=28, num_attention_heads=16, num_key_value_heads=8, head_dim=128,
        intermediate_size=6144, vocab_size=151_936, tie_word_embeddings=True,
    )  # fmt: skip
    config = FineViTVLConfig(vision_config=FineViTConfig.from_size("full"), text_config=qwen3_1_7b)
    with torch.device("meta"):
        model = FineViTVLForConditionalGeneration(config)
    assert sum(p.numel() for p in model.model.vision_tower.parameters()) == 860_249_088
    assert 1.71e9 < sum(p.numel() for p in model.model.language_model.parameters()) < 1.73e9
    fsdp = read_recipe("accelerate/fsdp2_8x")["fsdp_config"]
    wrapped = fsdp["fsdp_transformer_layer_cls_to_wrap"].split(",")
    classes = [type(module).__name__ for module in model.modules()]
    assert [classes.count(name) for name in wrapped] == [28, 28]


def test_flops_are_six_per_weight_and_token_where_attention_is_short():
    config = FineViTVLConfig.from_size("nano")
    model = FineViTVLForConditionalGeneration(config)
    count = FlopCounter(model)
    batch = {
        "image_grid_thw": torch.tensor([[1, 2, 2]]),
        "lengths": torch.tensor([10]),
        "labels": torch.tensor([[-100] * 7 + [1] * 3]),
    }
    matrices = {name: p.numel() for name, p in model.named_parameters() if p.ndim > 1 and "embed_tokens" not in name}
    vision = sum(n for name, n in matrices.items() if "vision_tower" in name)
    projector = sum(n for name, n in matrices.items() if "projector" in name)
    text = sum(n for name, n in matrices.items() if "language_model" in name)
    head = config.text_config.vocab_size * config.text_config.hidden_size
    expected = 6 * (4 * vision + projector + 10 * text + 3 * head)
    assert count(batch) == pytest.approx(expected, rel=0.01)
    for parameter in model.model.vision_tower.parameters():
        parameter.requires_grad_(False)
    frozen = 2 * 4 * vision + 4 * projector + 6 * (10 * text + 3 * head)
    assert FlopCounter(model)(batch) == pytest.approx(frozen, rel=0.01)


def test_a_matrix_product_has_a_measurable_peak():
    assert measure_peak_flops(torch.device("cpu"), torch.float32, seconds=0.05) > 1e9
