"""Stage I from a recipe to a finished folder, and what it refuses."""

import json
import re

import pytest
import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForMaskedImageModeling,
    ResNetConfig,
    ResNetModel,
    TrainerCallback,
    pipeline,
)

from finevit_training.checkpoint import find_checkpoint
from finevit_training.recipe import parse_recipe
from finevit_training.script import run_script
from finevit_training.stages.mim.arguments import MIM_PARTS
from finevit_training.stages.mim.stage import STAGE, build_trainer
from finevit_training.stages.running import prepare_run, train
from modeling_finevit import FineViTModel
from modeling_finevit.patches import pack_images
from tests.support.cards import run_snippet
from tests.support.mim_runs import SMALLEST_MIM, losses_of, mim_recipe, save_teacher
from tests.support.paths import NANO
from tests.support.tiny_teachers import scaling
from tests.support.training_data import write_records


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@pytest.fixture(scope="module")
def pixels(nano_corpus, tmp_path_factory):
    """A finished run on pixels."""
    out = tmp_path_factory.mktemp("pixels")
    recipe = mim_recipe(data=nano_corpus, output_dir=out, max_steps=30, mask_ratio=0.4, loss_on="all", ema_decay=0.9)
    assert train(prepare_run(STAGE, recipe)) == out
    return out


@pytest.fixture(scope="module")
def features(nano_corpus, tmp_path_factory):
    """A finished run on the features of a DINOv3 of patch 16."""
    folder = tmp_path_factory.mktemp("features")
    teacher = save_teacher(folder / "teacher")
    recipe = mim_recipe(data=nano_corpus, output_dir=folder / "out", max_steps=3, teacher=teacher)
    return train(prepare_run(STAGE, recipe))


def test_it_learns_and_leaves_a_whole_folder(pixels):
    curve = [entry["loss"] for entry in json.loads((pixels / "training_curve.json").read_text())]
    assert sum(curve[-5:]) < 0.9 * sum(curve[:5])
    model = AutoModelForMaskedImageModeling.from_pretrained(pixels)
    assert (model.config.loss_on, model.config.target_norm, model.head.out_features) == ("all", "layer_norm", 588)
    card = (pixels / "README.md").read_text()
    assert "$" not in card
    assert "588 numbers of each patch (target_norm layer_norm)" in card
    assert Image.open(pixels / "predictions.png").width > 800
    again = parse_recipe(["--recipe", str(pixels / "recipe.yaml")], MIM_PARTS)
    assert again.model.mask_ratio == 0.4


def test_the_encoder_and_its_processor_are_read_from_the_folder(pixels):
    trained = AutoModelForMaskedImageModeling.from_pretrained(pixels).vision_model
    encoder = AutoModel.from_pretrained(pixels)
    assert type(encoder) is FineViTModel
    assert torch.equal(weights(encoder), weights(trained))
    average = AutoModel.from_pretrained(pixels / "ema")
    assert type(average) is FineViTModel
    assert 0 < (weights(average) - weights(encoder)).norm() < 0.1 * weights(encoder).norm()
    inputs = AutoImageProcessor.from_pretrained(pixels)(Image.new("RGB", (300, 200)), return_tensors="pt")
    assert inputs["image_grid_thw"].prod() <= 64  # 112² pixels
    assert encoder(**inputs).last_hidden_state.isfinite().all()


def test_the_code_of_the_card_and_the_pipeline_that_it_names_give_the_features(pixels, monkeypatch):
    said = run_snippet(pixels / "README.md", pixels.parent, monkeypatch)
    assert torch.equal(weights(said["encoder"]), weights(AutoModel.from_pretrained(pixels)))
    card = (pixels / "README.md").read_text()
    named = re.search(r'pipeline\("(.*?)", "(.*?)"\)', card).groups()
    extract = pipeline(*named)
    assert torch.equal(extract("picture.png", return_tensors=True), said["features"])
    both = extract(["picture.png", "picture.png"], return_tensors=True)
    assert torch.equal(both[1], said["features"])
    # What the card warns of: transformers would have to know that patches are packed.
    wrong = extract(["picture.png", "picture.png"], return_tensors=True, batch_size=2)
    assert wrong[1].shape != said["features"].shape


def test_with_a_teacher_its_share_of_the_time_is_said_and_only_the_student_is_saved(features, capsys):
    receipt = json.loads((features / "receipt.json").read_text())
    assert 0 < receipt["trained"]["teacher_share"] < 1
    model = AutoModelForMaskedImageModeling.from_pretrained(features)
    assert (model.config.target_norm, model.head.out_features) == ("none", 32)
    assert receipt["model"]["parameters"] == len(weights(model))
    assert (features / "predictions.png").exists()


def test_the_teachers_share_is_in_the_printed_line(nano_corpus, tmp_path, capsys):
    build_trainer(
        mim_recipe(data=nano_corpus, output_dir=tmp_path, max_steps=1, teacher=save_teacher(tmp_path / "t"))
    ).train()
    assert " teacher " in capsys.readouterr().out


def test_a_run_goes_on_from_what_another_saved_with_a_new_head_for_another_target(pixels, nano_corpus, tmp_path):
    start = {"size": None, "vision_config": None, "model": pixels, "data": nano_corpus, "output_dir": tmp_path}
    same = build_trainer(mim_recipe(**start))
    trained = AutoModelForMaskedImageModeling.from_pretrained(pixels)
    assert torch.equal(weights(same.model), weights(trained))
    other = build_trainer(mim_recipe(**start, teacher=save_teacher(tmp_path / "teacher")))
    assert other.model.head.out_features == 32
    assert torch.equal(weights(other.model.vision_model), weights(trained.vision_model))


@pytest.mark.parametrize("target", ["pixels", "teacher", "cache"])
def test_a_run_that_was_stopped_goes_on_to_the_bit(nano_corpus, tmp_path, target):
    teacher = {} if target == "pixels" else {"teacher": save_teacher(tmp_path / "teacher")}
    common = {"data": nano_corpus, "max_steps": 8, **teacher}
    if target == "cache":
        common["teacher_cache"] = tmp_path / "cache"
    whole = build_trainer(mim_recipe(**common, output_dir=tmp_path / "whole"))
    whole.train()
    broken = {**common, "output_dir": tmp_path / "broken", "save_strategy": "steps", "save_steps": 3}
    first = build_trainer(mim_recipe(**broken))
    first.add_callback(Stop(5))
    first.train()
    again = build_trainer(mim_recipe(**broken))
    again.train(resume_from_checkpoint=find_checkpoint(tmp_path / "broken", "last"))
    assert losses_of(again) == losses_of(whole)
    assert torch.equal(weights(again.model), weights(whole.model))
    assert losses_of(build_trained(mim_recipe(**common, output_dir=tmp_path / "other", seed=8))) != losses_of(whole)


def build_trained(recipe):
    trainer = build_trainer(recipe)
    trainer.train()
    return trainer


class Stop(TrainerCallback):
    """Ends a run after a step, as a signal does."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == self.step


def test_one_picture_is_enough(records, tmp_path):
    data = write_records(records[:1], tmp_path / "data")
    out = train(prepare_run(STAGE, mim_recipe(data=data, output_dir=tmp_path / "out", max_steps=2)))
    assert (out / "predictions.png").exists()


@pytest.mark.parametrize(("patch_size", "merge_size"), [(14, 1), (14, 4), (16, 2)])
def test_patches_and_their_order_are_those_of_the_configuration(nano_corpus, tmp_path, patch_size, merge_size):
    """The encoder cuts a plain batch by its own configuration; what it is fed must be cut alike."""
    config = {"num_hidden_layers": 1, "patch_size": patch_size, "spatial_merge_size": merge_size}
    recipe = mim_recipe(
        data=nano_corpus,
        output_dir=tmp_path,
        max_steps=1,
        vision_config=json.dumps(config),
        max_pixels=256**2,
        max_patches=400,
    )
    run = prepare_run(STAGE, recipe)
    side = 8 * patch_size
    picture = torch.arange(side * side).reshape(1, side, side).expand(3, -1, -1).to(torch.uint8)
    made = run.trainer.processing_class.as_bytes([picture])
    expected, _ = pack_images(picture[None], patch_size, merge_size)
    assert torch.equal(made["pixel_values"], expected)
    other, _ = pack_images(picture[None], patch_size, 4 if merge_size == 2 else 2)
    assert not torch.equal(made["pixel_values"], other)
    out = train(run)
    processor, model = AutoImageProcessor.from_pretrained(out), AutoModel.from_pretrained(out)
    assert (processor.patch_size, processor.merge_size) == (patch_size, merge_size)
    assert (model.config.patch_size, model.config.spatial_merge_size) == (patch_size, merge_size)


def test_an_empty_source_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no rows"):
        build_trainer(mim_recipe(data=write_records([], tmp_path / "data"), output_dir=tmp_path / "out", max_steps=2))


def test_a_teacher_without_patch_tokens_is_refused(nano_corpus, tmp_path):
    ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1])).save_pretrained(tmp_path / "teacher")
    scaling().save_pretrained(tmp_path / "teacher")
    with pytest.raises(ValueError, match="gives no patch tokens"):
        build_trainer(mim_recipe(data=nano_corpus, output_dir=tmp_path, teacher=tmp_path / "teacher", max_steps=2))


def test_a_checkpoint_of_another_stage_is_refused_as_a_start(nano_corpus, tmp_path):
    start = {"size": None, "vision_config": None, "model": NANO}
    with pytest.raises(ValueError, match=r"^`model` is .*, a finevit_vl; expected a finevit$"):
        build_trainer(mim_recipe(**start, data=nano_corpus, output_dir=tmp_path, max_steps=2))


def test_a_checkpoint_of_another_stage_is_refused_when_a_run_goes_on(nano_corpus, tmp_path, trainer_for):
    other = trainer_for(max_steps=1, save_strategy="steps", save_steps=1)
    other.train()
    recipe = mim_recipe(data=nano_corpus, output_dir=other.args.output_dir, max_steps=2, resume_from_checkpoint="last")
    with pytest.raises(ValueError, match=r"is of a FineViTVL.*this run trains a FineViTForMaskedImageModeling"):
        prepare_run(STAGE, recipe)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"mask_ratio": 1.0}, "mask_ratio is 1.0; expected a share"),
        ({"mask": "cross"}, "mask is 'cross'; expected one of random, block"),
        ({"loss_on": "visible"}, "loss_on is 'visible'; expected one of masked, all"),
        ({"target_norm": "l1"}, "target_norm is 'l1'; expected one of none, layer_norm, l2"),
        ({"vision_config": '{"num_channels": 1}'}, "num_channels in vision_config is 1; expected 3"),
        ({"vision_config": '{"loss_on": "all"}'}, "loss_on in vision_config would have no effect: stage I's key"),
        ({"vision_config": '{"teacher_hidden_size": 9}'}, "teacher_hidden_size in vision_config would have no effect"),
        ({"vision_config": '{"hiden_size": 64}'}, "see FineViTConfig; did you mean hidden_size?"),
        ({"vision_config": '{"dtype": "float16"}'}, "unknown fields in vision_config"),
        ({"vision_config": '{"model_type": "vit"}'}, "unknown fields in vision_config"),
        ({"teacher_cache": "cache"}, "teacher_cache would have no effect without `teacher`"),
        ({"model": "folder"}, "exactly one of `model`"),
        ({"size": None, "model": "folder"}, "vision_config would have no effect without `size`"),
        ({"teacher": "no/such/teacher"}, "`teacher` is 'no/such/teacher': .* does not exist"),
        ({"max_patches": 63}, r"64 patches \(max_pixels 12544\) .* 63 \(max_patches\); give a smaller max_pixels"),
    ],
)
def test_a_recipe_that_makes_no_run_is_refused_in_one_line(nano_corpus, tmp_path, flags, message):
    values = {**SMALLEST_MIM, "data": nano_corpus, "output_dir": tmp_path, "max_steps": 2, **flags}
    argv = [part for key, value in values.items() if value is not None for part in (f"--{key}", str(value))]
    with pytest.raises(SystemExit, match=message):
        run_script("mim", "finevit_training.stages.mim.arguments:MIM_PARTS", lambda: STAGE, argv)
