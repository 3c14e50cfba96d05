"""The loop closed offline: pictures of the corpus through every pass, with the served nano checkpoint as captioner and
detector and rapidocr as reader, and the records back into training.

The corpus knows what is true; the same figures against the truth of another picture show what chance would give.
"""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import skimage
import yaml

from finecap.boxes import box_ious
from finecap.corpus.build import generate
from finecap.engine.command import caption
from finecap.engine.language.corpus_phrases import phrases_of
from finecap.engine.recipe import load_recipe
from finecap.engine.reporting.status import summarise
from finecap.records import validate_record
from tests.support.paths import CAPTION_RECIPES, NANO, ROOT

PICTURES = {"doc": 6, "chart": 6, "scene": 8}
STEPS = 9


@pytest.mark.parametrize("name", ["caption_full.yaml", "caption_offline.yaml"])
def test_the_recipes_that_ship_are_valid(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    recipe = load_recipe(CAPTION_RECIPES / name)
    assert {"ocr", "recaption", "phrases", "boxes", "balance", "local_captions", "verify"} <= set(recipe.passes)


def test_captions_of_the_corpus_give_back_every_thing_and_every_bar():
    for index in range(20):
        scene = generate("scene", index, 2, "train", "nano")
        things = {(region["caption"], region["label"]) for region in scene["regions"]}
        assert {(phrase["text"], phrase["label"]) for phrase in phrases_of(scene["global_caption"])} == things
        chart = generate("chart", index, 2, "train", "nano")
        bars = [region["caption"].split(" bar for ")[1] for region in chart["regions"] if region["label"] == "bar"]
        assert [phrase["text"] for phrase in phrases_of(chart["global_caption"])] == [f"the bar for {b}" for b in bars]
    assert phrases_of(generate("doc", 0, 2, "train", "nano")["global_caption"]) == []


@pytest.fixture(scope="module")
def truth():
    return {
        f"{kind}-{index}.png": generate(kind, index, 3, "train", "nano")
        for kind, count in PICTURES.items()
        for index in range(count)
    }


@pytest.fixture(scope="module")
def run(truth, nano_server, tmp_path_factory):
    """Every pass over the pictures of the corpus, one of them twice, a photograph, and a file that is no picture."""
    folder = tmp_path_factory.mktemp("caption_loop")
    pictures = folder / "in"
    pictures.mkdir()
    for name, record in truth.items():
        (pictures / name).write_bytes(record["image"]["bytes"])
    shutil.copy(pictures / "doc-0.png", pictures / "z-copy.png")
    shutil.copy(Path(skimage.__file__).parent / "data" / "coffee.png", pictures / "coffee.png")
    (pictures / "broken.jpg").write_bytes(b"no picture")
    recipe = yaml.safe_load((CAPTION_RECIPES / "caption_offline.yaml").read_text())
    recipe["captioners"][0] |= {"endpoints": [nano_server], "model": str(NANO)}
    for section in ("recaption", "local_captions"):
        recipe[section]["prompts"] = str(CAPTION_RECIPES / recipe[section]["prompts"])
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return caption(folder / "recipe.yaml", pictures, folder / "out", workers=1)


@pytest.fixture(scope="module")
def records(run, tmp_path_factory):
    """The published records by the SHA-256 that names them."""
    folder, cache = run.store.out / "dataset", str(tmp_path_factory.mktemp("cache"))
    found = datasets.load_dataset(str(folder), split="train", cache_dir=cache).cast_column(
        "image", datasets.Image(decode=False)
    )
    return {record["image"]["bytes"]: record for record in found}


def share_true(truth, records, kind, shift, is_true):
    """Of the records of one kind, how many are true of the picture, or of one `shift` places further."""
    names = [name for name in truth if name.startswith(kind)]
    pairs = [
        (records.get(truth[name]["image"]["bytes"]), truth[names[(place + shift) % len(names)]])
        for place, name in enumerate(names)
    ]
    return sum(is_true(record, known) for record, known in pairs if record) / len(names)


@pytest.mark.slow
def test_every_picture_ends_once(run, records, truth):
    summary = summarise(run)
    assert summary.finished
    assert summary.problems == []
    assert (summary.images, summary.under_way) == (len(truth) + 3, 0)
    assert summary.records == len(records) == summary.images - summary.rejected
    rejects = {kind: count for step in summary.passes for kind, count in step.rejects.items()}
    assert rejects["not a picture"] == rejects["exact duplicate"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["doc", "chart"])
def test_the_nano_model_captions_forms_and_charts_truly(truth, records, kind):
    def is_true(record, known):
        return record["global_caption"] == known["global_caption"]

    assert share_true(truth, records, kind, 0, is_true) >= 0.6
    assert share_true(truth, records, kind, 1, is_true) == 0


@pytest.mark.slow
def test_forms_are_read(truth, records):
    """Word for word; the reader takes a field and its value, which stand far apart, for two lines."""

    def words(record):
        return " ".join(region["text"] for region in record["regions"] if region["label"] == "line").split()

    def is_true(record, known):
        return words(record) == words(known)

    assert share_true(truth, records, "doc", 0, is_true) >= 0.6
    assert share_true(truth, records, "doc", 1, is_true) == 0


@pytest.mark.slow
def test_boxes_are_found_more_often_than_by_chance(truth, records):
    def is_true(record, known):
        """Some box of the record is where a thing of its name is."""
        found = [(region["bbox"], region["label"]) for region in record["regions"] if region["kind"] == "object"]
        there = [(region["bbox"], region["label"]) for region in known["regions"]]
        return any(
            label == name and box_ious(np.array(box), np.array([other]))[0] >= 0.5
            for box, label in found
            for other, name in there
        )

    by_chance = max(share_true(truth, records, "scene", shift, is_true) for shift in (1, 2, 3))
    assert share_true(truth, records, "scene", 0, is_true) > 2 * by_chance


@pytest.mark.slow
def test_records_say_what_made_them_and_call_nothing_verified_that_the_model_only_tells_itself(run, records):
    objects = 0
    for record in records.values():
        validate_record(record)
        assert record["captioner"] == "finevit-vl-nano"
        assert record["provenance"]["ocr"].startswith("rapidocr ")
        for region in record["regions"]:
            if region["kind"] == "object":
                objects += 1
                assert record["provenance"]["boxes"] == "finevit-vl-nano (grounding by prompt)"
                assert region["caption"] is None or region["verdict"] in ("verified", "self-consistent")
                if region["verdict"] == "verified":
                    assert region["label"] == "bar"  # nothing else has a witness beside the nano model
    counters = next(step.counters for step in summarise(run).passes if step.name == "pack")
    dropped = sum(count for name, count in counters.items() if name.startswith("local captions left out: "))
    assert objects > 0
    assert dropped > 0


@pytest.mark.slow
def test_training_reads_the_records(run, tmp_path):
    command = [sys.executable, str(ROOT / "training_scripts" / "vl_sft.py")]
    command += ["--recipe", "sft/captioned", "--model", str(NANO)]
    command += ["--data", str(run.store.out / "dataset"), "--output_dir", str(tmp_path / "model")]
    command += ["--max_steps", str(STEPS), "--logging_steps", "1", "--learning_rate", "5e-4", "--use_cpu", "true"]
    command += ["--per_device_train_batch_size", "8", "--bf16", "false"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    losses = [entry["loss"] for entry in json.loads((tmp_path / "model" / "training_curve.json").read_text())]
    assert len(losses) == STEPS
    assert all(math.isfinite(loss) for loss in losses)
    assert sum(losses[-3:]) < sum(losses[:3])
