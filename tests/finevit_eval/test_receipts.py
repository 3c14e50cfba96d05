"""The weights of a receipt are those of the model and nothing else of its folder."""

import shutil

import pytest

from finevit_eval.receipts import weights_hash


def test_the_weights_follow_every_change_of_them_and_nothing_else(model_dir, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(model_dir, copy)
    (copy / "README.md").write_text("a card")
    assert weights_hash(copy) == weights_hash(model_dir)
    weights = copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert weights_hash(copy) != weights_hash(model_dir)


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no weights"):
        weights_hash(tmp_path)
