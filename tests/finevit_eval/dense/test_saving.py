"""Files of features: rows and columns, sizes, how pictures were prepared; bad pictures are left out and counted."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open

from finevit_eval.dense.patch_encoder import PatchEncoder
from finevit_eval.dense.picture_files import picture_files
from finevit_eval.dense.saving import save_features
from finevit_eval.embedder import Embedder
from modeling_finevit import FineViTImageProcessorPil
from tests.support.encoder_cases import make_model
from tests.support.vl_models import noise_image

SIZES = {"flat": (140, 28), "page": (100, 150), "square": (84, 84)}


@pytest.fixture
def folder(tmp_path):
    """Three pictures and two that are none."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for seed, (name, size) in enumerate(SIZES.items()):
        noise_image(seed, *size).save(folder / f"{name}.png")
    (folder / "broken.png").write_bytes((folder / "page.png").read_bytes()[:200])
    (folder / "words.jpg").write_text("no picture")
    return folder


def read(path):
    """Features, and the rest as values."""
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            rest = {name: arrays[name].tolist() for name in arrays.files if name != "features"}
            return torch.from_numpy(arrays["features"]), rest | {"prepared": json.loads(rest["prepared"])}
    with safe_open(path, "pt") as file:
        return file.get_tensor("features"), {name: json.loads(text) for name, text in file.metadata().items()}


@pytest.mark.parametrize("file_format", ["npz", "safetensors"])
def test_every_picture_has_a_file_with_its_features_row_by_row(file_format, encoder, folder, tmp_path):
    out = tmp_path / "out"
    saved = save_features(encoder, picture_files([folder]), out, file_format, {"model": "a model"})
    assert sorted(saved.files.values()) == [f"{name}.{file_format}" for name in sorted(SIZES)]
    for seed, (name, size) in enumerate(SIZES.items()):
        features, rest = read(out / f"{name}.{file_format}")
        alone = encoder.encode(encoder.prepare(noise_image(seed, *size)))[0]
        torch.testing.assert_close(features, alone, atol=1e-5, rtol=1e-5)
        assert rest["grid"] == list(features.shape[:2])
        assert rest["picture_size"] == list(size)
        assert rest["resized_size"] == [14 * features.shape[1], 14 * features.shape[0]]
        assert rest["prepared"]["size"] == encoder.facts["size"]
        assert len(rest["sha256"]) == 64
    page, _ = read(out / f"page.{file_format}")
    assert page.shape[0] > page.shape[1]


def test_bad_pictures_are_left_out_with_their_reasons(encoder, folder, tmp_path):
    saved = save_features(encoder, picture_files([folder]), tmp_path / "out", "npz", {"model": "a model"})
    names = {path.rpartition("/")[2]: reason for path, reason in saved.skipped.items()}
    assert names["words.jpg"] == "not a picture: 10 bytes that begin with b'no picture'"
    assert names["broken.png"].startswith("truncated")
    assert len(names) == 2
    written = json.loads((tmp_path / "out" / "features.json").read_text())
    assert written["skipped"] == saved.skipped
    assert written["model"] == {"model": "a model"}
    with pytest.raises(ValueError, match=r"none of 1 pictures could be used; the first: .*broken\.png: truncated"):
        save_features(encoder, {"broken": folder / "broken.png"}, tmp_path / "none", "npz", {})


def test_bfloat16_stays_itself_in_safetensors_and_is_widened_in_npz(folder, tmp_path):
    encoder = PatchEncoder(Embedder(make_model().bfloat16(), FineViTImageProcessorPil()))
    files = {"square": folder / "square.png"}
    found = {}
    for file_format in ("npz", "safetensors"):
        save_features(encoder, files, tmp_path, file_format, {})
        found[file_format], _ = read(tmp_path / f"square.{file_format}")
    assert (found["npz"].dtype, found["safetensors"].dtype) == (torch.float32, torch.bfloat16)
    assert torch.equal(found["npz"], found["safetensors"].float())
