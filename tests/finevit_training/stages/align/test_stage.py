"""Stage III from the folder of any former stage to an aligned encoder and a FineViT-VL, and what it refuses."""

import json

import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, SiglipVisionConfig, SiglipVisionModel, TrainerCallback

from finevit_training.checkpoint import find_checkpoint
from finevit_training.recipe import parse_recipe
from finevit_training.stages.align.stage import STAGE
from finevit_training.stages.mim import stage as mim
from finevit_training.stages.running import prepare_run, train
from finevit_training.stages.sft import stage as sft
from finevit_training.stages.sft.arguments import ModelArguments
from finevit_vl import FineViTVLConfig, FineViTVLForConditionalGeneration, FineViTVLProcessor, build_qwen_tokenizer
from modeling_finevit import (
    FineViTConfig,
    FineViTDualConfig,
    FineViTDualModel,
    FineViTDualProcessor,
    FineViTForMaskedImageModeling,
    FineViTImageProcessorPil,
    FineViTModel,
)
from tests.support.cards import run_snippet
from tests.support.mim_runs import mim_recipe

LAYERS = {"num_hidden_layers": 2, "initializer_range": 0.06}


def tower_config():
    return FineViTConfig.from_size("nano", **LAYERS)


def save_encoder(folder):
    encoder = FineViTModel(tower_config())
    encoder.save_pretrained(folder)
    FineViTImageProcessorPil().save_pretrained(folder)
    return encoder


def save_masked(folder):
    model = FineViTForMaskedImageModeling(tower_config())
    model.save_pretrained(folder)
    FineViTImageProcessorPil().save_pretrained(folder)
    return model.vision_model


def save_vl(folder):
    tokenizer = build_qwen_tokenizer(300)
    model = FineViTVLForConditionalGeneration(
        FineViTVLConfig.from_size(
            "nano", tokenizer=tokenizer, vision_config=LAYERS, text_config={"num_hidden_layers": 1}
        )
    )
    model.save_pretrained(folder)
    FineViTVLProcessor.from_vision_text_pretrained(FineViTImageProcessorPil(), tokenizer).save_pretrained(folder)
    return model.model.vision_tower


def save_dual(folder):
    tokenizer = build_qwen_tokenizer(300)
    small = {"num_hidden_layers": 1, "vocab_size": len(tokenizer), "max_position_embeddings": 8}
    special = {name: getattr(tokenizer, name) for name in ("pad_token_id", "eos_token_id", "bos_token_id")}
    model = FineViTDualModel(
        FineViTDualConfig.from_size("nano", vision_config=LAYERS, text_config={**small, **special})
    )
    model.save_pretrained(folder)
    FineViTDualProcessor(FineViTImageProcessorPil(), tokenizer, text_length=8).save_pretrained(folder)
    return model.vision_model


def same(one, other):
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


@pytest.fixture(scope="module")
def vision(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    save_encoder(folder)
    return folder


@pytest.fixture
def align_recipe(vision, nano_corpus, tmp_path):
    """The smallest recipe of stage III with further flags; those that are None are left out."""

    def make(**flags):
        values = {
            "vision": vision, "size": "nano", "vocab_size": 300, "text_config": json.dumps(LAYERS), "mixture": "paper",
            "data": nano_corpus, "output_dir": tmp_path / "out", "max_steps": 3, "per_device_train_batch_size": 1,
            "max_length": 512, "max_turns": 3, "logging_steps": 1, "learning_rate": 1e-3, "bf16": False, "seed": 7,
            "cpu_threads": 1, **flags,
        }  # fmt: skip
        given = {name: value for name, value in values.items() if value is not None}
        return parse_recipe([part for key, value in given.items() for part in (f"--{key}", str(value))])

    return make


def test_the_encoder_has_a_folder_of_its_own_and_is_the_tower_of_the_whole(align_recipe, vision, tmp_path):
    out = train(prepare_run(STAGE, align_recipe(ema_decay=0.5)))
    encoder = AutoModel.from_pretrained(out / "encoder")
    assert type(encoder) is FineViTModel
    whole = FineViTVLForConditionalGeneration.from_pretrained(out)
    assert same(encoder, whole.model.vision_tower)
    assert not same(encoder, FineViTModel.from_pretrained(vision)), "it was trained"
    assert not same(encoder, FineViTModel.from_pretrained(out / "ema")), "the average is another one"
    inputs = AutoImageProcessor.from_pretrained(out / "encoder")(Image.new("RGB", (90, 60)), return_tensors="pt")
    assert encoder(**inputs).last_hidden_state.isfinite().all()
    receipt = json.loads((out / "receipt.json").read_text())
    assert receipt["model"]["parameters"] == sum(parameter.numel() for parameter in whole.parameters())


def test_whole_encoder_and_average_have_cards_whose_code_runs_where_the_run_s_folder_lies(align_recipe, monkeypatch):
    out = train(prepare_run(STAGE, align_recipe(ema_decay=0.5)))
    encoder, average = (FineViTModel.from_pretrained(out / name) for name in ("encoder", "ema"))
    for folder, of in ((out, encoder), (out / "encoder", encoder), (out / "ema", average)):
        said = run_snippet(folder / "README.md", out.parent, monkeypatch)
        assert same(said["encoder"], of)
        assert said["features"].shape == (24, of.config.hidden_size)
    assert not same(encoder, average)
    cards = [(out / name / "README.md").read_text() for name in ("", "encoder", "ema")]
    assert not any("$" in card for card in cards)
    size = f"{sum(parameter.numel() for parameter in encoder.parameters()):,} parameters"
    assert f"The encoder of `out`, as the training left it: FineViT, 2 layers, width 128, {size}" in cards[1]
    assert "The encoder of `out`, its weights averaged over the steps (`ema_decay`)" in cards[2]


def test_a_frozen_encoder_leaves_as_it_came(align_recipe, vision):
    out = train(prepare_run(STAGE, align_recipe(train_tower=False)))
    assert same(FineViTModel.from_pretrained(out / "encoder"), FineViTModel.from_pretrained(vision))


def test_a_frozen_language_model_is_left_alone_while_the_projector_learns(align_recipe):
    trainer = STAGE.build_trainer(align_recipe(train_llm=False, projector_warmup_steps=1))
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()
    after = trainer.model.state_dict()
    changed = {name.split(".")[1] for name in after if not torch.equal(after[name], before[name])}
    assert changed == {"vision_tower", "multi_modal_projector"}


@pytest.mark.parametrize("save", [save_encoder, save_masked, save_dual, save_vl])
def test_the_encoder_of_any_former_stage_is_taken(align_recipe, tmp_path, save):
    tower = save(tmp_path / "former")
    trainer = STAGE.build_trainer(align_recipe(vision=tmp_path / "former"))
    assert same(trainer.model.model.vision_tower, tower)
    assert trainer.model.config.text_config.num_hidden_layers == 2
    assert len(trainer.processing_class.tokenizer) == 326


def test_a_tower_that_is_no_finevit_is_refused(align_recipe, tmp_path):
    config = SiglipVisionConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    SiglipVisionModel(config).save_pretrained(tmp_path / "former")
    with pytest.raises(ValueError, match="a siglip_vision_model; expected a FineViT"):
        prepare_run(STAGE, align_recipe(vision=tmp_path / "former"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"vision": "v"}, "exactly one of"),
        ({"vision": "v", "llm": "l", "size": "nano"}, "exactly one of"),
        ({"vision": "v", "model": "m"}, "exactly one of"),
        ({"llm": "l"}, "exactly one of"),
        ({"vision": "v", "llm": "l", "text_config": {"num_hidden_layers": 1}}, "text_config would have no effect"),
        ({"vision": "v", "size": "nano", "vision_config": {"num_hidden_layers": 1}}, "vision_config would have no"),
    ],
)
def test_what_does_not_go_together_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        ModelArguments(**given)


class Stop(TrainerCallback):
    """Ends a run after a step, as a signal does."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == self.step


def losses_of(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_a_run_that_was_stopped_goes_on_to_the_bit(align_recipe, tmp_path):
    flags = {"max_steps": 4, "projector_warmup_steps": 1}
    whole = STAGE.build_trainer(align_recipe(**flags, output_dir=tmp_path / "whole"))
    whole.train()
    broken = {**flags, "output_dir": tmp_path / "broken", "save_strategy": "steps", "save_steps": 2}
    first = STAGE.build_trainer(align_recipe(**broken))
    first.add_callback(Stop(3))
    first.train()
    again = STAGE.build_trainer(align_recipe(**broken))
    again.train(resume_from_checkpoint=find_checkpoint(tmp_path / "broken", "last"))
    assert losses_of(again) == losses_of(whole)
    assert same(again.model, whole.model)
    other = STAGE.build_trainer(align_recipe(**flags, output_dir=tmp_path / "other", seed=8))
    other.train()
    assert losses_of(other) != losses_of(whole)


def test_a_checkpoint_of_another_stage_is_refused(align_recipe, nano_corpus, tmp_path):
    flags = {"max_steps": 1, "save_strategy": "steps", "save_steps": 1}
    train(prepare_run(mim.STAGE, mim_recipe(data=nano_corpus, output_dir=tmp_path / "out", **flags)))
    with pytest.raises(ValueError, match="is of a FineViTForMaskedImageModeling"):
        prepare_run(STAGE, align_recipe(output_dir=tmp_path / "out", resume_from_checkpoint="last"))


def test_a_checkpoint_of_the_fine_tuning_is_none_of_the_alignment_and_the_other_way_round(align_recipe):
    begun = {"max_steps": 1, "save_strategy": "steps", "save_steps": 1}
    again = {"max_steps": 2, "resume_from_checkpoint": "last"}
    for name, stage, other in (("vl_sft", sft.STAGE, STAGE), ("align", STAGE, sft.STAGE)):
        train(prepare_run(stage, align_recipe(**begun)))
        prepare_run(stage, align_recipe(**again))
        with pytest.raises(ValueError, match=f"checkpoint-1 is of {name}, and this is {other.name}: give the run an"):
            prepare_run(other, align_recipe(**again))


def test_a_checkpoint_that_says_no_stage_is_taken(align_recipe, tmp_path):
    """As earlier versions wrote it."""
    train(prepare_run(STAGE, align_recipe(max_steps=1, save_strategy="steps", save_steps=1)))
    state = tmp_path / "out/checkpoint-1/trainer_state.json"
    saved = json.loads(state.read_text())
    del saved["stateful_callbacks"]["StageCallback"]
    state.write_text(json.dumps(saved))
    prepare_run(sft.STAGE, align_recipe(max_steps=2, resume_from_checkpoint="last"))


def test_the_papers_recipe_holds_the_papers_values(nano_corpus):
    recipe = parse_recipe(["--recipe", "align/paper", "--data", str(nano_corpus), "--use_cpu", "true"])
    args, model = recipe.training, recipe.model
    assert model.max_pixels == 1008**2
    assert (model.train_tower, model.train_projector, model.train_llm) == (True, True, True)
    assert (args.projector_learning_rate, args.learning_rate, args.vision_learning_rate) == (1e-4, 1e-5, 1e-5)
    assert args.lr_scheduler_kwargs == {"min_lr_rate": 0.1}
    assert (args.adam_beta1, args.adam_beta2, args.weight_decay, args.max_grad_norm) == (0.9, 0.95, 0.01, 1.0)
    assert args.max_steps == 500_000_000 // 1024
    assert sum(recipe.data.mixture.values()) == pytest.approx(100 / 12.2, abs=0.01)
    parse_recipe(["--recipe", "align/nano_cpu"])
