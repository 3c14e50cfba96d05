"""Probes on real handwritten digits, far above what shuffled labels give; an oracle gets 1, wrong pixels chance."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from finevit_eval.embedder import Embedder
from finevit_eval.result import Settings
from finevit_eval.run import evaluate
from modeling_finevit import FineViTImageProcessorPil
from tests.support.encoder_cases import make_model
from tests.support.labelled_pictures import plain_picture, write_image_folder
from tests.support.picture_text_models import save_dual

TRAIN = 1347
"""Of 1,797 pictures, as scikit-learn's `train_test_split` halves them by default: three quarters."""


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A folder with an untrained FineViT of two layers."""
    folder = tmp_path_factory.mktemp("encoder")
    make_model("sdpa").save_pretrained(folder)
    FineViTImageProcessorPil().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """scikit-learn's handwritten digits as an image folder, each pixel seven wide: 56 x 56."""
    folder = tmp_path_factory.mktemp("digits")
    pixels, labels = load_digits(return_X_y=True)
    big = np.kron(pixels.reshape(-1, 8, 8) * (255 / 16), np.ones((7, 7))).astype(np.uint8)
    for name, rows in (("train", slice(TRAIN)), ("test", slice(TRAIN, None))):
        classes = {
            str(digit): [Image.fromarray(one) for one in big[rows][labels[rows] == digit]] for digit in range(10)
        }
        write_image_folder(folder / name, classes)
    return folder


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """Three classes whose red tells the class: eight to learn from, four to be judged by, one broken."""
    folder = tmp_path_factory.mktemp("colours")
    for split, count in (("train", 8), ("val", 4)):
        classes = {
            name: [plain_picture((100 * number, 20 * at, 60), (60 + 30 * (at % 2), 60)) for at in range(count)]
            for number, name in enumerate(("black", "dark", "light"))
        }
        write_image_folder(folder / split, classes)
    (folder / "val" / "dark" / "999.png").write_bytes(b"broken")
    return folder


def test_an_untrained_encoder_tells_digits_and_nothing_by_shuffled_labels(encoder, digits, tmp_path):
    results = evaluate(encoder, digits, tmp_path, settings=Settings(limit=300))
    assert list(results["tasks"]) == ["knn", "linear", "attentive"]
    for name, task in results["tasks"].items():
        assert task["n"] == 300
        assert task["interval"][0] > 0.35, name
        assert task["controls"]["shuffled"] < 0.2
        assert 0.05 < task["controls"]["majority"] < 0.2
        assert task["acc@5"] > task["score"]
        receipt = results["receipt"]["tasks"][name]
        assert (receipt["train"], receipt["also_in_train"]) == (300, 0)
    assert results["receipt"]["tasks"]["knn"]["temperature"] == 0.07


@pytest.fixture
def oracle(monkeypatch):
    """Make every model see the class of a picture of `colours`, in its vector and in one patch of four."""

    def seen(self, images):
        return {"red": torch.tensor([image.getpixel((0, 0))[0] // 100 for image in images])}

    def patches(self, images):
        vectors = Embedder.encode(self, Embedder.prepare(self, images))
        return [torch.cat([vector[None], torch.ones(3, 3)]) for vector in vectors]

    monkeypatch.setattr(Embedder, "prepare", seen)
    monkeypatch.setattr(Embedder, "encode", lambda self, inputs: torch.eye(3)[inputs["red"]])
    monkeypatch.setattr(Embedder, "patches", patches)


def test_an_oracle_tells_every_class_and_a_blind_one_none(oracle, encoder, colours, tmp_path):
    settings = Settings(split="val")
    seeing = evaluate(encoder, colours, tmp_path, settings=settings)
    assert [task["score"] for task in seeing["tasks"].values()] == [1.0, 1.0, 1.0]
    assert all(task["n"] == 12 for task in seeing["tasks"].values())
    assert [one.partition(":")[0] for one in seeing["receipt"]["skipped"]] == ["val/dark/999.png"]
    blind = evaluate(encoder, colours, tmp_path, settings=Settings(split="val", blind=True))
    assert [task["score"] for task in blind["tasks"].values()] == pytest.approx([1 / 3] * 3)


def test_wrong_pixels_are_wrong_answers(oracle, encoder, colours, tmp_path):
    swapped = tmp_path / "swapped"
    shutil.copytree(colours, swapped)
    (swapped / "val" / "black").rename(swapped / "val" / "x")
    (swapped / "val" / "light").rename(swapped / "val" / "black")
    (swapped / "val" / "x").rename(swapped / "val" / "light")
    results = evaluate(encoder, swapped, tmp_path / "out", ["knn", "linear"], Settings(split="val"))
    assert [task["score"] for task in results["tasks"].values()] == pytest.approx([1 / 3] * 2)


def test_every_kind_of_model_that_sees_can_be_probed(model_dir, colours, tmp_path):
    for number, folder in enumerate((save_dual(tmp_path / "dual"), model_dir)):
        out = tmp_path / str(number)
        results = evaluate(folder, colours, out, ["probes"], Settings(split="val"))
        assert list(results["tasks"]) == ["knn", "linear", "attentive"]
        sample = json.loads((out / "samples_knn.jsonl").read_text().splitlines()[0])
        assert (sample["id"], sample["truth"]) == ("val/black/000.png", "black")


def test_pictures_to_learn_from_must_be_others(encoder, colours, tmp_path):
    write_image_folder(tmp_path / "alone", {"cat": [plain_picture((9, 9, 9))] * 5, "dog": [plain_picture((0, 9, 9))]})
    with pytest.raises(ValueError, match="no splits 'train' and 'test' apart"):
        evaluate(encoder, tmp_path / "alone", tmp_path / "out", ["knn"])
    shutil.copytree(colours, tmp_path / "more")
    shutil.copytree(colours / "val" / "dark", tmp_path / "more" / "val" / "ultraviolet")
    with pytest.raises(ValueError, match="'train' has no class 'ultraviolet'"):
        evaluate(encoder, tmp_path / "more", tmp_path / "out", ["knn"], Settings(split="val"))
