"""Stage II as a user runs it: a finished folder that loads everywhere, and refusals in one line."""

import json

import pytest
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor, pipeline

from finevit_training.contrastive import main
from modeling_finevit import FineViTDualModel, FineViTModel
from tests.support.cards import run_snippet
from tests.support.contrastive_runs import flags_of


@pytest.fixture(scope="module")
def finished(nano_corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "out"
    flags = {"data": nano_corpus, "output_dir": out, "max_steps": 2, "num_pooling_queries": 2}
    flags["captions"] = '{"global": 1}'
    assert main(flags_of(**flags)) == 0
    return out


def test_a_finished_folder_loads_as_both_towers_as_the_encoder_and_in_the_pipeline(finished):
    model, processor = AutoModel.from_pretrained(finished), AutoProcessor.from_pretrained(finished)
    assert isinstance(model, FineViTDualModel)
    encoder = FineViTModel.from_pretrained(finished)
    assert torch.equal(encoder.norm.weight, model.vision_model.norm.weight)
    image, labels = Image.new("RGB", (84, 56), "red"), ["a red picture", "a page", "two charts"]
    scores = model(**processor(images=[image], text=labels, return_tensors="pt")).logits_per_image[0]
    found = pipeline("zero-shot-image-classification", str(finished))(
        image, candidate_labels=labels, hypothesis_template="{}"
    )
    assert [one["label"] for one in found] == [labels[place] for place in scores.argsort(descending=True)]


def test_the_code_of_the_card_runs_where_the_folder_lies(finished, monkeypatch):
    assert run_snippet(finished / "README.md", finished.parent, monkeypatch)["logits"].shape == (1, 2)


def test_receipt_and_card_say_what_was_trained(finished, nano_corpus):
    receipt = json.loads((finished / "receipt.json").read_text())
    assert receipt["trained"]["samples"] == 16
    assert receipt["skipped"] > 0  # easy-vqa's pictures have no captions
    card = (finished / "README.md").read_text()
    assert "16 pairs in 2 steps" in card
    assert "$" not in card.split("## Training")[1]


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        ({"data": "no/such/corpus"}, "no such file or folder"),
        ({"data": "x", "gradient_accumulation_steps": 4}, "cache_pairs"),
        ({"data": "x", "mixture": "{}"}, "mixture"),
    ],
)
def test_what_cannot_be_trained_ends_with_one_clear_line(flags, word, tmp_path):
    with pytest.raises(SystemExit, match=f"contrastive: .*{word}"):
        main(flags_of(**flags, output_dir=tmp_path, max_steps=1))
