"""The checkpoints that ship are what their receipts say, load as their cards say, and stay small."""

import json
import re

import pytest
import torch
from PIL import Image

from finecap.made_with import weight_hashes
from tests.support.pages import blocks
from tests.support.paths import NANO, ROOT

ENCODER = ROOT / "model_cards" / "finevit-nano"
MOST_BYTES = {NANO: 10_000_000, ENCODER: 8_000_000}


@pytest.mark.parametrize("folder", MOST_BYTES, ids=lambda folder: folder.name)
def test_a_receipt_names_the_weights_beside_it_and_nothing_of_the_machine(folder):
    assert json.loads((folder / "receipt.json").read_text())["weights"] == weight_hashes(folder)
    assert sum(file.stat().st_size for file in folder.iterdir()) < MOST_BYTES[folder]
    texts = [file.read_text() for file in folder.iterdir() if file.suffix in (".md", ".json", ".yaml")]
    assert not any(re.search(r'["\s]/\w', text) for text in texts), "an absolute path"


def test_the_encoder_is_loaded_by_its_cards_own_code_and_tells_pictures_apart(tmp_path, monkeypatch):
    (code,) = blocks(ENCODER / "README.md", "python")
    features = []
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model_cards").symlink_to(ROOT / "model_cards")
    for colour in ("white", "navy"):
        Image.new("RGB", (112, 84), colour).save("picture.png")
        found: dict = {}
        exec(code, found)
        features.append(found["features"])
    assert features[0].shape == (48, 128)
    assert not torch.allclose(*features, atol=0.1)
