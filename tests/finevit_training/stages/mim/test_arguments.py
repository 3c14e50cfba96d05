"""Recipes of stage I: those that ship, and defaults that follow from others."""

import pytest
import yaml

from finecap.recipe_files import shipped_recipes
from finevit_training.recipe import parse_recipe
from finevit_training.stages.encoder import build_image_processor
from finevit_training.stages.mim.arguments import MIM_PARTS
from finevit_training.stages.mim.stage import refuse_small_rows

RECIPES = {name: path for name, path in shipped_recipes("finevit_training").items() if name.startswith("mim/")}


@pytest.mark.parametrize("name", RECIPES)
def test_shipped_recipes_parse(name):
    recipe = parse_recipe(["--recipe", name, "--data", "pictures", "--bf16", "false"], MIM_PARTS)
    assert recipe.data.data == ["pictures"]
    assert recipe.training.row_capacity == recipe.training.max_patches


@pytest.mark.parametrize("flags", [["--recipe", "mim/nano_cpu"], ["--size", "nano", "--max_steps", "1"]])
def test_a_row_of_the_nano_recipe_and_one_of_the_defaults_hold_a_photograph(flags):
    recipe = parse_recipe([*flags, "--data", "pictures"], MIM_PARTS)
    image_processor = build_image_processor(recipe.model)
    assert image_processor.get_number_of_image_patches(3000, 4000) <= recipe.training.max_patches
    refuse_small_rows(image_processor, recipe.training.max_patches)


def test_the_papers_recipe_has_the_papers_values():
    asked = yaml.safe_load(RECIPES["mim/paper"].read_text())
    recipe = parse_recipe(["--recipe", "mim/paper", "--data", "pictures", "--bf16", "false"], MIM_PARTS)
    model, training = recipe.model, recipe.training
    assert (model.mask_ratio, model.mask, model.loss_on, model.target_norm) == (0.75, "random", "masked", "none")
    assert model.min_pixels == model.max_pixels == 252**2
    assert "dinov3" in model.teacher
    assert (training.learning_rate, training.adam_beta1, training.adam_beta2) == (1e-3, 0.9, 0.98)
    assert (training.weight_decay, training.max_grad_norm) == (0.05, 1.0)
    pictures = 8 * training.gradient_accumulation_steps * training.max_patches // 18**2
    assert pictures == 4096
    assert asked["max_steps"] * pictures == pytest.approx(1.8e9, rel=1e-5)


def test_features_are_regressed_as_they_are_and_pixels_normalised_unless_told_otherwise():
    flags = ["--size", "nano", "--data", "pictures", "--max_steps", "1"]
    assert parse_recipe(flags, MIM_PARTS).model.target_norm == "layer_norm"
    assert parse_recipe([*flags, "--teacher", "folder"], MIM_PARTS).model.target_norm == "none"
    assert parse_recipe([*flags, "--target_norm", "l2"], MIM_PARTS).model.target_norm == "l2"


def test_a_row_holds_at_least_one_patch():
    with pytest.raises(ValueError, match="max_patches is 0; expected a finite number >= 1"):
        parse_recipe(["--size", "nano", "--data", "pictures", "--max_patches", "0"], MIM_PARTS)
