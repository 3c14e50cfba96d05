"""The shipped checkpoint has the format that a finished run leaves today."""

import json
from importlib.resources import files

import pytest
import yaml
from transformers import AutoModelForImageTextToText

from finecap.made_with import weight_hashes
from finevit_training.receipt import model_facts
from finevit_training.recipe import asked_recipe, parse_recipe
from tests.support.paths import NANO


@pytest.fixture(scope="module")
def receipt():
    return json.loads((NANO / "receipt.json").read_text())


def test_the_recipe_is_what_was_asked_and_parses(receipt):
    path = NANO / "recipe.yaml"
    asked = asked_recipe(parse_recipe(["--recipe", str(path)]))
    assert asked == yaml.safe_load(path.read_text()) == receipt["recipe"]["asked"]
    shipped = asked_recipe(parse_recipe(["--recipe", "sft/nano_base"]))
    assert asked.items() <= shipped.items()
    # A resume is all that the shipped one adds.
    assert shipped.keys() - asked.keys() == {"save_minutes", "save_total_limit"}


def test_the_receipt_is_of_these_weights_and_of_this_curve(receipt):
    assert receipt["weights"] == weight_hashes(NANO)
    assert receipt["model"] == model_facts(AutoModelForImageTextToText.from_pretrained(NANO))
    last = json.loads((NANO / "training_curve.json").read_text())[-1]
    trained = receipt["trained"]
    assert (trained["steps"], trained["samples"], trained["last_loss"]) == (
        last["step"],
        last["samples_seen"],
        last["loss"],
    )
    assert receipt["skipped"] == len(json.loads((NANO / "skipped_records.json").read_text()))
    assert set(receipt["recorded_by_hand"]) < receipt.keys()


def test_the_card_shows_the_recipe_and_the_template_is_that_of_the_package(receipt):
    card = (NANO / "README.md").read_text()
    assert yaml.safe_dump(receipt["recipe"]["asked"], sort_keys=False).strip() in card
    ours = files("finevit_vl").joinpath("chat_template.jinja").read_text()
    assert (NANO / "chat_template.jinja").read_text() == ours
