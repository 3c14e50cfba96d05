"""What is refused before torch is imported: the keys are those of the dataclasses, the words those of later."""

import dataclasses
import importlib
import json
import subprocess
import sys

import pytest
import yaml

from finevit_training.early import known_keys, refuse_early
from finevit_training.recipe import parse_recipe
from tests.support.paths import ROOT

PARTS = [
    "finevit_training.stages.mim.arguments:MIM_PARTS",
    "finevit_training.stages.contrastive.arguments:CONTRASTIVE_PARTS",
    "finevit_training.stages.sft.arguments:SFT_PARTS",
]


def dataclasses_of(parts):
    module, _, name = parts.partition(":")
    return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize("parts", PARTS)
def test_the_keys_read_from_source_text_are_those_of_the_dataclasses(parts):
    fields = {item.name for part in dataclasses_of(parts) for item in dataclasses.fields(part) if item.init}
    known = known_keys(parts)
    assert known >= fields
    assert not [name for name in known - fields if not name.startswith("_")]


def test_where_a_class_is_not_found_nothing_is_said_early():
    assert known_keys("finevit_training.stages.mim.arguments:NO_PARTS") is None
    assert known_keys("no_such_package.arguments:PARTS") is None


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize(
    ("values", "flags"),
    [
        ({"sise": "nano", "max_step": 3}, []),
        ({}, ["--lerning_rate", "1", "--max_steps", "2"]),
        ({}, ["--max_step=3", "--data", "x", "y"]),
    ],
)
def test_keys_and_flags_are_refused_in_the_words_of_later(tmp_path, parts, values, flags):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"size": "nano", "data": ["corpus"], **values}))
    argv = ["--recipe", str(recipe), *flags]
    with pytest.raises(ValueError) as early:
        refuse_early(argv, parts)
    with pytest.raises(ValueError) as late:
        parse_recipe(argv, dataclasses_of(parts))
    assert str(early.value) == str(late.value)


@pytest.mark.parametrize(
    "argv",
    [
        ["--recipe=mim/nano_cpu", "--max-steps", "3", "--no_dataloader_pin_memory", "--dry_run"],
        ["--size", "nano", "--data", "owner/name", "word", "hf://datasets/a/b", "/x/*.tar", '{"path": "a/b/c"}'],
        ["--help", "--anything"],
    ],
)
def test_what_may_be_right_is_left_to_later(argv):
    refuse_early(argv, PARTS[0])


def test_data_that_is_not_on_this_disk_is_refused_by_the_door_of_the_data(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps({"size": "nano", "data": [str(tmp_path), str(tmp_path / "typo")]}))
    with pytest.raises(ValueError, match=r"typo' in `data` cannot be opened: .*no such file or folder"):
        refuse_early(["--recipe", str(recipe)], PARTS[0])
    refuse_early(["--recipe", str(recipe), "--data", str(tmp_path)], PARTS[0])


@pytest.mark.parametrize("stage", ["mim", "contrastive", "align", "vl_sft"])
def test_a_wrong_key_costs_no_import_of_torch(tmp_path, stage):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("sise: nano")
    code = f"""
import sys
from finevit_training.{stage} import main
for flags in ["--recipe", {str(recipe)!r}], ["--recipe", "no/such.yaml"], ["--size", "nano", "--data", "/no/such"]:
    try:
        main(flags)
    except SystemExit as stop:
        print(stop)
assert not {{"torch", "transformers", "peft"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "did you mean size?" in done.stdout
    assert done.stdout.count(f"{stage}: ") == 3
