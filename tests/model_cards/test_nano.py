"""The shipped checkpoint has the format that a finished run leaves today."""

import json
from importlib.resources import files

import pytest
import yaml

from finecap.made_with import weight_hashes
from finevit_training.receipt import model_facts
from finevit_training.recipe import asked_recipe, parse_recipe
from finevit_vl import FineViTVLForConditionalGeneration
from tests.support.paths import NANO


@pytest.fixture(scope="module")
def receipt():
    return json.loads((NANO / "receipt.json").read_text())


# The checkpoint was trained on padded batches of 32 samples, before samples were packed. Its recipe repeats the run
# with packed rows of about as many samples; in these keys it differs from what the receipt says was asked.
REPEATED_BY = {
    "attn_implementation": {"vision_config": "eager", "text_config": "sdpa"},
    "max_length": 1024,
    "per_device_train_batch_size": 3,
}
ASKED_THEN = {"attn_implementation": "eager", "group_by_length": False, "per_device_train_batch_size": 32}


def test_the_recipe_repeats_what_was_asked_and_is_the_shipped_one(receipt):
    path = NANO / "recipe.yaml"
    today = asked_recipe(parse_recipe(["--recipe", str(path)]))
    assert today == yaml.safe_load(path.read_text())
    then = receipt["recipe"]["asked"]
    assert {key: then[key] for key in ASKED_THEN} == ASKED_THEN
    assert {key: today[key] for key in REPEATED_BY} == REPEATED_BY
    changed = ASKED_THEN.keys() | REPEATED_BY.keys()
    assert {k: v for k, v in today.items() if k not in changed} == {k: v for k, v in then.items() if k not in changed}
    shipped = asked_recipe(parse_recipe(["--recipe", "sft/nano_base"]))
    assert today.items() <= shipped.items()
    # A resume is all that the shipped one adds.
    assert shipped.keys() - today.keys() == {"save_minutes", "save_total_limit"}


def test_the_receipt_is_of_these_weights_and_of_this_curve(receipt):
    assert receipt["weights"] == weight_hashes(NANO)
    assert receipt["model"] == model_facts(FineViTVLForConditionalGeneration.from_pretrained(NANO))
    last = json.loads((NANO / "training_curve.json").read_text())[-1]
    trained = receipt["trained"]
    assert (trained["steps"], trained["samples"], trained["last_loss"]) == (
        last["step"],
        last["samples_seen"],
        last["loss"],
    )
    assert receipt["skipped"] == len(json.loads((NANO / "skipped_records.json").read_text()))
    assert set(receipt["recorded_by_hand"]) < receipt.keys()


def test_the_card_shows_the_recipe_and_the_template_is_that_of_the_package():
    card = (NANO / "README.md").read_text()
    assert (NANO / "recipe.yaml").read_text().strip() in card
    ours = files("finevit_vl").joinpath("chat_template.jinja").read_text()
    assert (NANO / "chat_template.jinja").read_text() == ours
