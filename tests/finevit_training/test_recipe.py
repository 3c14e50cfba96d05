"""Recipes: flags over file, unknown keys refused, the shipped ones whole, the saved one runs again."""

import json
import math

import pytest
import torch
import yaml
from transformers import AutoConfig

from finecap.recipe_files import without_folders
from finecap.tasks.mixture import NAMED_MIXTURES
from finevit_training.arguments import has_bf16
from finevit_training.recipe import asked_recipe, parse_recipe, read_recipe, resolved_recipe
from finevit_training.stages.contrastive.arguments import CONTRASTIVE_PARTS
from finevit_training.stages.sft.arguments import SFT_PARTS
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


def test_a_recipe_of_another_stage_is_named_with_its_keys():
    with pytest.raises(ValueError, match=r"unknown keys in the recipe mim/nano_cpu: .*'loss_on'.* keys of this stage"):
        parse_recipe(["--recipe", "mim/nano_cpu"])


@pytest.mark.parametrize("key", ["lerning_rate", "max_step", "pack"])
def test_unknown_keys_are_refused_in_file_and_flags(tmp_path, key):
    with pytest.raises(ValueError, match=key):
        parse_recipe(["--recipe", write(tmp_path, **{key: 1})])
    with pytest.raises(ValueError, match=key):
        parse_recipe(["--size", "nano", "--data", "x", f"--{key}", "1"])


def test_a_misspelt_key_or_flag_is_answered_with_the_one_that_was_meant(tmp_path):
    with pytest.raises(ValueError, match=r"did you mean learning_rate\?$"):
        parse_recipe(["--recipe", write(tmp_path, lerning_rate=1)])
    for flag in ("--lerning_rate", "--lerning-rate=1"):
        with pytest.raises(ValueError, match=r"did you mean --learning_rate\?$"):
            parse_recipe(["--size", "nano", "--data", "x", flag, "1"])


def test_the_saved_recipe_is_what_was_asked_and_gives_the_same_run_again(tmp_path):
    stages = [{"until": 0.5, "mixture": {"transcribe": 1}}, {"until": 1.0, "mixture": {"qa": 3}}]
    path = write(tmp_path, mixture=stages, bf16="auto", warmup_steps=0.1, text_config={"num_hidden_layers": 2})
    flags = ["--max_minutes", "3", "--resume_from_checkpoint", "last-or-start", "--eos_token", "<|im_end|>"]
    first = parse_recipe(["--recipe", path, *flags])
    first.training.max_steps = 10_000_000  # as a run does to itself
    asked = {
        "size": "nano",
        "text_config": {"num_hidden_layers": 2},
        "data": ["corpus"],
        "mixture": stages,
        "warmup_steps": 0.1,
        "bf16": "auto",
        "eos_token": "<|im_end|>",
        "max_minutes": 3.0,
    }
    assert asked_recipe(first) == asked
    again = tmp_path / "again.yaml"
    again.write_text(yaml.safe_dump(asked_recipe(first)))
    assert asked_recipe(parse_recipe(["--recipe", str(again)])) == asked


def test_what_this_machine_made_of_a_recipe_is_kept_apart(tmp_path):
    recipe = parse_recipe(["--recipe", write(tmp_path, bf16="auto"), "--push_to_hub", "--hub_token", "hf_secret"])
    resolved = resolved_recipe(recipe)
    assert recipe.training.bf16 is has_bf16() is resolved.get("bf16", False)
    assert recipe.training.use_cpu is not torch.accelerator.is_available()
    assert resolved["train_tower"] is True
    assert resolved["weight_decay"] == recipe.training.weight_decay, "a default counts as well"
    assert resolved["accelerator_config"]["even_batches"] is True
    assert "hf_secret" not in json.dumps([resolved, asked_recipe(recipe)])


def test_no_recipe_that_is_written_holds_what_opens_a_link(tmp_path):
    link = "https://me:PASSWORD@host.example/a/train.parquet?X-Amz-Signature=SECRET#part"
    sources = [link, json.dumps({"path": link, "weight": 2}), json.dumps({"path": "/home/me/data"})]
    recipe = parse_recipe(["--recipe", write(tmp_path), "--data", *sources])
    assert recipe.data.data[0] == recipe.data.data[1]["path"] == link
    shown = "https://host.example/a/train.parquet"
    assert asked_recipe(recipe)["data"] == [shown, {"path": shown, "weight": 2}, {"path": "/home/me/data"}]
    receipt = without_folders({"asked": asked_recipe(recipe), "resolved": resolved_recipe(recipe)})
    for word in ("PASSWORD", "SECRET", "/home/me"):
        assert word not in json.dumps(receipt)


def test_a_pickled_configuration_as_in_a_checkpoint_holds_no_token(tmp_path):
    training = parse_recipe(["--recipe", write(tmp_path), "--push_to_hub", "--hub_token", "hf_secret"]).training
    torch.save(training, tmp_path / "training_args.bin")
    assert b"hf_secret" not in (tmp_path / "training_args.bin").read_bytes()
    assert torch.load(tmp_path / "training_args.bin", weights_only=False).seed == training.seed
    assert training.hub_token == "hf_secret"


@pytest.mark.parametrize("flags", [["--recipe=sft/nano_cpu"], ["--recipe", "sft/nano_cpu"]])
def test_a_recipe_and_bf16_are_given_with_and_without_an_equals_sign(flags):
    for bf16, value in ((["--bf16=auto"], "auto"), (["--bf16", "auto"], "auto"), (["--bf16=false"], False)):
        assert parse_recipe([*flags, *bf16]).asked["bf16"] == value
    if has_bf16():
        assert parse_recipe([*flags, "--bf16"]).training.bf16 is True


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"data": "outputs/corpus"}, r"data: \[outputs/corpus\]"),
        ({"mixture": {}}, "mixture is {}"),
        ({"mixture": "transcribe"}, "mixture is 'transcribe'"),
        ({"mixture": [{"until": 1.0}]}, "a stage of the mixture"),
        ({"bf16": "perhaps"}, "true, false or auto"),
        ({"loss_type": "dft"}, "loss_type"),
        ({"label_smoothing_factor": 0.3}, "label_smoothing_factor"),
        ({"data_seed": 1}, "data_seed"),
        ({"dataloader_persistent_workers": True}, "dataloader_persistent_workers"),
        ({"use_liger_kernel": True}, "use_liger_kernel"),
        ({"restore_callback_states_from_checkpoint": True}, "clock is restored in any case"),
        ({"dataloader_multiprocessing_context": "spawn"}, "started as PyTorch does"),
        ({"dataloader_in_order": False}, "order of the run"),
        ({"length_column_name": "n"}, "length_column_name"),
        ({"shuffle_dataset": True}, "shuffle_dataset"),
        ({"packing_strategy": "wrapped"}, "packing_strategy"),
        ({"liger_kernel_config": {"rope": True}}, "liger_kernel_config"),
        ({"use_cache": True}, "use_cache"),
        ({"batch_eval_metrics": True}, "batch_eval_metrics"),
        ({"eval_accumulation_steps": 2}, "eval_accumulation_steps"),
        ({"num_train_epochs": 2, "max_minutes": 1}, "num_train_epochs"),
        ({"save_steps": 0.1, "save_strategy": "steps", "max_minutes": 1}, "save_minutes"),
        ({"logging_steps": 0.1, "max_minutes": 1}, "logging_steps"),
        ({"eval_steps": 0.5, "max_minutes": 1}, "eval_steps"),
        ({"projector_warmup_steps": 5, "max_minutes": 1}, "projector_warmup_steps"),
        ({"save_strategy": "epoch"}, "use `steps`"),
        ({"num_train_epochs": 2, "max_steps": 9}, "num_train_epochs would have no effect: max_steps ends the run"),
        ({"eval_split": "test"}, "eval_strategy: steps"),
        ({"eval_data": ["other"]}, "eval_strategy: steps"),
        ({"eval_data": ["./corpus/"], "eval_strategy": "steps"}, "split 'train' is trained on"),
        ({"eval_data": [{"path": "corpus", "split": "train"}], "eval_strategy": "steps"}, "is trained on"),
        ({"eval_data": [{"path": "other", "weight": 2}], "eval_strategy": "steps"}, "weight of other has no effect"),
        ({"lora_rank": 4, "train_llm": False}, "train_llm: false"),
        ({"lora_rank": 4, "train_tower": True}, "train_tower: True contradicts"),
        ({"lora_rank": 4, "train_tower": False, "lora_tower": True}, "train_tower: False contradicts"),
        ({"lora_tower": True}, "without lora_rank"),
        ({"lora_alpha": 64}, "with lora_rank: 0; give a rank"),
        ({"lora_rank": -3}, "lora_rank is -3"),
        ({"train_tower": False, "vision_learning_rate": 1e-4}, "vision_learning_rate would have no effect"),
        ({"train_projector": False, "projector_warmup_steps": 5}, "projector_warmup_steps would have no effect"),
        ({"max_turns": 0}, "max_turns is 0"),
        ({"max_minutes": float("nan")}, "max_minutes is nan"),
        ({"projector": "folder"}, "goes with `vision`"),
        ({"max_steps": 0}, "max_steps is 0; expected a finite number >= 1"),
        ({"max_steps": -5}, "max_steps is -5"),
        ({"num_train_epochs": 0}, "num_train_epochs is 0"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps is 0"),
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size is 0"),
        ({"max_length": -3}, "max_length is -3"),
        ({"max_length": None}, "max_length is null"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"learning_rate": -1e-3}, "learning_rate is -0.001"),
        ({"vision_learning_rate": float("inf")}, "vision_learning_rate is inf"),
        ({"vocab_size": -4}, "vocab_size is -4"),
        ({"vocab_size": 0}, "vocab_size is 0"),
        ({"max_grad_norm": float("nan")}, "max_grad_norm is nan"),
        ({"logging_steps": -1}, "logging_steps is -1"),
        ({"save_steps": 0, "save_strategy": "steps"}, "save_steps is 0"),
        ({"eval_steps": 5}, "eval_strategy: steps"),
        ({"per_device_eval_batch_size": 4}, "eval_strategy: steps"),
        ({"save_steps": 5}, "save_strategy: steps, or use save_minutes"),
        ({"logging_steps": 5, "logging_strategy": "no"}, "leave logging_strategy out"),
        ({"hub_model_id": "me/model"}, "push_to_hub: true"),
        ({"hub_token": "hf_secret"}, "push_to_hub: true"),
        ({"attn_implementation": {"vision": "eager"}}, r"names \['vision'\]; expected vision_config, text_config"),
        ({"fp16": True, "use_cpu": True}, "fp16: true would have no effect on a CPU"),
        ({"text_config": {"nonsense": 1}}, r"unknown fields in text_config: \['nonsense'\]; see Qwen3Config"),
        ({"text_config": {"model_type": "qwen33"}}, r"unknown model_type 'qwen33'; did you mean qwen3\?"),
        ({"text_config": {"model_type": "llama", "qk_norm": True}}, "see LlamaConfig"),
        ({"text_config": [1]}, r"text_config is \[1\]; expected a mapping"),
        ({"vision_config": {"hiden_size": 64}}, r"did you mean hidden_size\?$"),
        ({"adam_beta1": -0.1}, "adam_beta1 is -0.1; expected a number from 0 to below 1"),
        ({"adam_beta2": 2}, "adam_beta2 is 2; expected a number from 0 to below 1"),
        ({"adam_beta2": float("nan")}, "adam_beta2 is nan"),
        ({"adam_epsilon": -1}, "adam_epsilon is -1"),
        ({"bf16_full_eval": True}, "bf16_full_eval: True would have no effect: .* use `bf16`"),
        ({"fp16_full_eval": True}, "fp16_full_eval: True would have no effect"),
        ({"average_tokens_across_devices": False}, "mean over the items of all devices"),
        ({"torch_compile": True}, "torch_compile: True would compile the whole model in pieces: use compile_blo"),
        ({"torch_compile_mode": "max-autotune"}, "torch_compile_mode: .* use compile_blocks: true"),
        ({"optim_target_modules": "all-linear"}, "optim_target_modules: 'all-linear' would have no effect"),
        ({"train_tower": False, "ema_decay": 0.9}, "ema_decay would have no effect with train_tower: False"),
    ],
)
def test_what_would_have_no_effect_or_another_one_is_refused(tmp_path, values, word):
    with pytest.raises(ValueError, match=word):
        parse_recipe(["--recipe", write(tmp_path, **values)])


@pytest.mark.parametrize(
    "given",
    [
        ["--vocab_size", "900"],
        ["--prompt_tokens"],
        ["--text_config", '{"hidden_size": 8}'],
        ["--vision_config", '{"hidden_size": 8}'],
    ],
)
@pytest.mark.parametrize("source", [["--model", "m"], ["--vision", "v", "--llm", "l"]])
def test_what_makes_a_model_from_scratch_is_refused_beside_a_finished_one(source, given):
    with pytest.raises(ValueError, match="would have no effect without `size`"):
        parse_recipe([*source, "--data", "x", *given])


@pytest.mark.parametrize(
    "values",
    [
        {"loss_type": "nll"},
        {"num_train_epochs": 2},
        {"num_train_epochs": 2, "max_steps": -1},
        {"max_minutes": 2, "max_steps": 9},
        {"data_seed": None},
        {"max_steps": -1},
        {"max_grad_norm": 0},
        {"eval_data": ["other"], "eval_strategy": "steps"},
        {"eval_data": ["corpus"], "eval_split": "validation", "eval_strategy": "steps"},
        {"eval_data": ["corpus"], "split": "mine", "eval_strategy": "steps"},
    ],
)
def test_defaults_and_options_with_an_effect_are_not_refused(tmp_path, values):
    parse_recipe(["--recipe", write(tmp_path, **values)])


def test_lora_leaves_the_tower_alone_unless_it_has_adapters(tmp_path):
    for flags, trained in (({}, True), ({"lora_rank": 4}, False), ({"lora_rank": 4, "lora_tower": True}, True)):
        assert parse_recipe(["--recipe", write(tmp_path, **flags)]).model.train_tower is trained


@pytest.mark.parametrize(
    "flags",
    [["--max_minutes", "-1"], ["--train_tower", "false", "--train_llm", "false", "--train_projector", "false"]],
)
def test_values_that_make_no_run_are_refused(flags):
    with pytest.raises(ValueError, match=r"max_minutes|nothing to train"):
        parse_recipe(["--size", "nano", "--data", "x", *flags])


@pytest.mark.parametrize(
    ("stage", "values", "expected"),
    [
        (CONTRASTIVE_PARTS, {"cache_pairs": math.nan}, "cache_pairs is nan in the recipe; expected a whole number"),
        (CONTRASTIVE_PARTS, {"cache_pairs": [8]}, r"cache_pairs is \[8\] in the recipe; expected a whole number"),
        (CONTRASTIVE_PARTS, {"cache_pairs": 8.5}, "cache_pairs is 8.5 in the recipe; expected a whole number"),
        (CONTRASTIVE_PARTS, {"cache_pairs": "many"}, "argument --cache_pairs.*'many'"),
        (CONTRASTIVE_PARTS, {"cache_pairs": 0}, "cache_pairs is 0; expected a number of pairs >= 1"),
        (CONTRASTIVE_PARTS, {"region_weight": None}, "region_weight is None in the recipe; expected a number"),
        (SFT_PARTS, {"spike_factor": {}}, "spike_factor is {} in the recipe; expected a number"),
        (SFT_PARTS, {"spike_factor": math.nan}, "spike_factor is nan in the recipe; expected a number"),
        (SFT_PARTS, {"spike_factor": True}, "spike_factor is True in the recipe; expected a number"),
        (SFT_PARTS, {"spike_factor": -1}, "spike_factor is -1; expected a finite number > 1"),
        (SFT_PARTS, {"train_tower": 1}, "train_tower is 1 in the recipe; expected true or false"),
        (SFT_PARTS, {"max_steps": 2.5}, "max_steps is 2.5 in the recipe; expected a whole number"),
        (SFT_PARTS, {"output_dir": 2026}, "output_dir is 2026 in the recipe; expected text"),
        (SFT_PARTS, {"bf16": 2}, "bf16 is 2 in the recipe; expected text"),
        (SFT_PARTS, {"compile_blocks": "maybe"}, "compile_blocks is 'maybe'; expected true, false or auto"),
        (SFT_PARTS, {"data": 7}, "data is 7 in the recipe; expected a list"),
    ],
)
def test_values_of_another_kind_are_refused(tmp_path, stage, values, expected):
    with pytest.raises(ValueError, match=expected):
        parse_recipe(["--recipe", write(tmp_path, **values)], stage)


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


def test_a_mixture_by_name_and_wordings_are_read_and_what_is_neither_is_refused(recipe_for):
    recipe = recipe_for(mixture="paper", wordings="several")
    assert recipe.data.mixture == NAMED_MIXTURES["paper"]
    assert recipe.asked["mixture"] == NAMED_MIXTURES["paper"]
    assert recipe_for().data.wordings == "one"
    with pytest.raises(ValueError, match="mixture is 'papers'"):
        recipe_for(mixture="papers")
    with pytest.raises(ValueError, match="wordings is 'many'"):
        recipe_for(wordings="many")


@pytest.mark.parametrize("name", ["max_steps", "max_minutes", "num_train_epochs"])
def test_a_flag_that_ends_the_run_takes_the_place_of_what_the_recipe_says(tmp_path, name):
    """As with Transformers, whose --max_steps wins over epochs: a recipe is tried with a few steps."""
    values = {"num_train_epochs": 3, "max_steps": 7, "max_minutes": 2}
    recipe = tmp_path / "recipe.yaml"
    others = [other for other in values if (other == "num_train_epochs") != (name == "num_train_epochs")]
    for other in others:
        recipe.write_text(f"size: nano\ndata: [{tmp_path}]\noutput_dir: {tmp_path}\n{other}: {values[other]}\n")
        asked = parse_recipe(["--recipe", str(recipe), f"--{name}", "2"]).asked
        assert asked[name] == 2
        assert other not in asked
        assert other in parse_recipe(["--recipe", str(recipe)]).asked
