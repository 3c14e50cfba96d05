"""Embeddings depend on the content alone: not on its company, not on a kill in between."""

import io
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from PIL import Image

from finevit_eval import embedding
from finevit_eval.embedder import Embedder
from finevit_eval.embedding import embed_pictures, embed_texts, kept_conditions, made_ahead, packs, preparation
from finevit_eval.kept import Kept
from finevit_eval.result import Settings
from tests.support.picture_text_models import save_dual, save_siglip

SETTINGS = Settings(batch_size=4)
SIZES = [(60, 90), (200, 56), (57, 58), (112, 112), (300, 70), (80, 80), (56, 140), (90, 61), (64, 64)]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Name -> folder and embedder."""
    folders = {
        "dual": save_dual(tmp_path_factory.mktemp("dual")),
        "siglip": save_siglip(tmp_path_factory.mktemp("siglip")),
    }
    return {name: (folder, Embedder.from_pretrained(folder, "cpu")) for name, folder in folders.items()}


def picture(number, size):
    noise = torch.randint(0, 255, (size[1], size[0], 3), generator=torch.Generator().manual_seed(number))
    encoded = io.BytesIO()
    Image.fromarray(noise.to(torch.uint8).numpy()).save(encoded, "PNG")
    return encoded.getvalue()


PICTURES = {f"p{number}": picture(number, size) for number, size in enumerate(SIZES)}


@pytest.fixture
def kept(tmp_path):
    with Kept(tmp_path / "kept", {}) as kept:
        yield kept


@pytest.fixture
def encoded(monkeypatch):
    """How many pictures (patches of native ones) each call of a model has seen."""
    seen = []
    plain = Embedder.encode

    def counted(self, inputs):
        seen.append(len(inputs["pixel_values"]))
        return plain(self, inputs)

    monkeypatch.setattr(Embedder, "encode", counted)
    return seen


@pytest.mark.parametrize("name", ["dual", "siglip"])
def test_a_picture_in_a_pack_has_the_embedding_that_it_has_alone(name, models, kept):
    embedder = models[name][1]
    found = embed_pictures(embedder, PICTURES.items(), SETTINGS, kept).stacked(PICTURES)
    alone = torch.cat([embedder.images([Image.open(io.BytesIO(data)).convert("RGB")]) for data in PICTURES.values()])
    assert torch.allclose(found, alone, atol=1e-5)
    assert not torch.allclose(found, alone.roll(1, 0), atol=1e-3)


def test_native_pictures_fill_packs_of_patches(models, kept, encoded, monkeypatch):
    monkeypatch.setattr(embedding, "PATCHES", 100)
    embed_pictures(models["dual"][1], PICTURES.items(), SETTINGS, kept)
    largest = 84  # patches of 300 x 70 pixels
    assert max(encoded) <= 100
    assert all(one + other > 100 - largest for one, other in pairwise(encoded))
    assert len(encoded) < len(PICTURES)


def test_pictures_of_one_size_fill_batches(models, kept, encoded):
    embed_pictures(models["siglip"][1], PICTURES.items(), SETTINGS, kept)
    assert encoded == [4, 4, 1]


def test_a_picture_larger_than_a_pack_is_a_pack_of_its_own():
    of = [(name, {"image_grid_thw": torch.tensor([[1, size, 2]])}) for name, size in [("a", 9000), ("b", 2), ("c", 2)]]
    assert [names for names, _ in packs(of, 4)] == [["a"], ["b", "c"]]


@pytest.mark.parametrize("name", ["dual", "siglip"])
def test_a_run_that_goes_on_gives_the_same_bits(name, models, tmp_path, encoded, monkeypatch):
    monkeypatch.setattr(embedding, "PATCHES", 100)
    embedder = models[name][1]

    def whole(kept):
        pictures = embed_pictures(embedder, PICTURES.items(), SETTINGS, kept).stacked(PICTURES)
        return pictures, embed_texts(embedder, [f"text {number}" for number in range(9)], 4, kept)

    with Kept(tmp_path / "whole", {}) as kept:
        in_one_go = whole(kept)
    packs_of_all = list(encoded)
    encoded.clear()
    plain_put, puts = Kept.put, []

    def dies(self, found):
        if len(puts) == 3:
            raise KeyboardInterrupt
        puts.append(found)
        plain_put(self, found)

    monkeypatch.setattr(Kept, "put", dies)
    with Kept(tmp_path / "killed", {}) as kept, pytest.raises(KeyboardInterrupt):
        whole(kept)
    monkeypatch.setattr(Kept, "put", plain_put)
    with Kept(tmp_path / "killed", {}) as kept:
        gone_on = whole(kept)
    assert all(torch.equal(one, other) for one, other in zip(in_one_go, gone_on, strict=True))
    assert set(encoded) <= set(packs_of_all)
    with Kept(tmp_path / "killed", {"weights": "others"}) as kept:
        assert kept.get(["text"]) == {}
        encoded.clear()
        whole(kept)
    assert encoded == packs_of_all


def test_a_content_that_comes_twice_is_encoded_once(models, kept, encoded, monkeypatch):
    embedder = models["siglip"][1]
    twice = [("a", PICTURES["p0"]), ("b", PICTURES["p1"]), ("c", PICTURES["p0"])]
    found = embed_pictures(embedder, twice, SETTINGS, kept)
    assert encoded == [2]
    assert torch.equal(found.stacked("a"), found.stacked("c"))
    read = []
    plain = Embedder.texts
    monkeypatch.setattr(Embedder, "texts", lambda self, texts: (read.extend(texts), plain(self, texts))[1])
    texts = embed_texts(embedder, ["x", "y", "x"], 2, kept)
    assert read == ["x", "y"]
    assert torch.equal(texts[0], texts[2])
    assert not torch.equal(texts[0], texts[1])


def test_bad_pictures_are_left_out_with_the_reason(models, kept):
    thin = io.BytesIO()
    Image.new("RGB", (4000, 1)).save(thin, "PNG")
    stream = {"a": PICTURES["p0"], "broken": b"no picture", "again": b"no picture", "thin": thin.getvalue()}
    found = embed_pictures(models["dual"][1], stream.items(), SETTINGS, kept)
    assert found.problem("a") is None
    assert found.problem("broken") == found.problem("again")
    assert "not a picture" in found.problem("broken")
    assert "aspect" in found.problem("thin")


def test_a_bug_in_a_thread_is_raised(models, kept, monkeypatch):
    def broken(self, images):
        raise KeyError("bug")

    monkeypatch.setattr(Embedder, "prepare", broken)
    with pytest.raises(KeyError, match="bug"):
        embed_pictures(models["dual"][1], PICTURES.items(), SETTINGS, kept)


def test_a_blind_model_sees_grey_of_the_same_size(models, tmp_path):
    embedder = models["dual"][1]
    with Kept(tmp_path / "kept", {}) as kept:
        found = embed_pictures(embedder, PICTURES.items(), replace(SETTINGS, blind=True), kept).stacked(["p3"])
    assert torch.allclose(found, embedder.images([Image.new("RGB", SIZES[3], (128, 128, 128))]), atol=1e-6)


def test_readers_run_ahead_no_further_than_said():
    begun = []
    made = made_ahead(lambda item: begun.append(item) or item * 2, range(1000))
    assert [next(made) for _ in range(3)] == [0, 2, 4]
    assert len(begun) <= 3 + embedding.AHEAD
    assert list(made) == [item * 2 for item in range(3, 1000)]


def test_conditions_tell_weights_settings_and_preparation(models, tmp_path):
    folder, embedder = models["siglip"]
    other = save_siglip(tmp_path, seed=1)
    base = kept_conditions(folder, embedder, SETTINGS)
    assert base != kept_conditions(other, Embedder.from_pretrained(other, "cpu"), SETTINGS)
    assert base != kept_conditions(folder, embedder, replace(SETTINGS, blind=True))
    assert base["weights"] != kept_conditions(other, embedder, SETTINGS)["weights"]


def test_the_receipt_says_how_pictures_and_texts_were_prepared(models):
    dual, siglip = (preparation(models[name][1]) for name in ("dual", "siglip"))
    assert dual["pictures"]["size"] == {"shortest_edge": 56 * 56, "longest_edge": 1008 * 1008}
    assert siglip["pictures"]["size"] == {"height": 28, "width": 28}
    assert all(len(facts["pictures"]["image_mean"]) == 3 for facts in (dual, siglip))
    assert dual["texts"] == siglip["texts"] == {"lower_case": True, "length": 24}
