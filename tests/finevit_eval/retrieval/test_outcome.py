"""What a pool's samples, scores and controls are, where pictures have different numbers of texts."""

import pytest
import torch

from finevit_eval.retrieval.outcome import EmbeddedPool, find_pictures, find_texts

UNIT = torch.eye(6)


def pool(owners, images=UNIT[:4], texts=None):
    texts = images[owners] if texts is None else texts
    names = [f"text {number}" for number in range(len(owners))]
    return EmbeddedPool(["a", "b", "c", "d"], names, owners, images, texts, {}, lambda ids: ())


def test_a_picture_without_a_text_is_in_the_way_and_asks_nothing():
    of_three = pool([0, 0, 1, 3])
    texts, pictures = find_pictures(of_three), find_texts(of_three)
    assert (texts.score, pictures.score) == (1.0, 1.0)
    assert [sample["id"] for sample in texts.samples] == ["a", "a/2", "b", "d"]
    assert [sample["id"] for sample in pictures.samples] == ["a", "b", "d"]
    images = UNIT[[0, 1, 0, 3]]
    assert find_pictures(pool([0, 0, 1, 3], images)).samples[0]["score"] == 0.5


def test_chance_is_what_random_embeddings_get():
    owners = [0, 0, 0, 1, 2, 2, 3]
    texts, pictures = find_pictures(pool(owners)), find_texts(pool(owners))
    assert texts.controls["chance"] == 1 / 4
    assert pictures.controls["chance"] == pytest.approx((3 + 1 + 2 + 1) / 4 / 7)
    hits = {"t2i": [], "i2t": []}
    for seed in range(300):
        generator = torch.Generator().manual_seed(seed)
        images, rows = (torch.nn.functional.normalize(torch.randn(n, 6, generator=generator)) for n in (4, 7))
        hits["t2i"].append(find_pictures(pool(owners, images, rows)).score)
        hits["i2t"].append(find_texts(pool(owners, images, rows)).score)
    assert sum(hits["t2i"]) / 300 == pytest.approx(1 / 4, abs=0.04)
    assert sum(hits["i2t"]) / 300 == pytest.approx(1 / 4, abs=0.04)


def test_shuffled_pictures_have_texts_of_another_and_of_one_other():
    outcome = find_pictures(pool([0, 0, 1, 2, 3]))
    assert (outcome.score, outcome.controls["shuffled"]) == (1.0, 0.0)
    moved = pool([0, 0, 1, 2, 3], texts=UNIT[[2, 2, 3, 0, 1]])
    assert (find_pictures(moved).score, find_pictures(moved).controls["shuffled"]) == (0.0, 1.0)
    assert (find_texts(moved).score, find_texts(moved).controls["shuffled"]) == (0.0, 1.0)


def test_samples_say_what_was_taken_for_what():
    wrong = pool([0, 1, 2, 2, 3], texts=UNIT[[1, 1, 2, 2, 3]])
    first = find_pictures(wrong).samples[0]
    assert (first["question"], first["truth"], first["prediction"]) == ("text 0", "a", "b")
    assert (first["rank"], first["score"]) == (2, 0.0)
    assert first["confused"][0] == "b"
    assert "a" not in first["confused"]
    assert "confused" not in find_pictures(wrong).samples[1]
    assert find_texts(wrong).samples[2]["truth"] == ["text 2", "text 3"]
    assert find_texts(wrong).samples[3]["truth"] == "text 4"


def test_pictures_that_are_nearer_are_confused_the_nearest_first():
    texts = torch.nn.functional.normalize(torch.tensor([[0.2, 0.9, 0.1, 0.3, 0, 0]]))
    of_one = pool([0], texts=texts)
    assert find_pictures(of_one).samples[0]["confused"] == ["b", "d"]
