"""Weights of classes are means of their prompts, computed once for a model, names and prompts."""

import pytest
import torch
from torch.nn.functional import normalize

from finevit_eval.embedder import Embedder
from finevit_eval.kept import Kept
from finevit_eval.zero_shot.text_weights import class_weights, text_conditions, weights_file
from tests.support.picture_text_models import save_siglip

NAMES, PROMPTS = ["cat", "dog", "hot dog"], ("a {}.", "the {} here", "no {}")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folders = [save_siglip(tmp_path_factory.mktemp("model"), seed) for seed in (0, 1)]
    return [(folder, Embedder.from_pretrained(folder, "cpu")) for folder in folders]


@pytest.fixture
def asked(monkeypatch):
    """The texts that a model was asked for."""
    texts = []
    plain = Embedder.texts

    def counted(self, batch):
        texts.extend(batch)
        return plain(self, batch)

    monkeypatch.setattr(Embedder, "texts", counted)
    return texts


def weights(folder, embedder, names=NAMES, prompts=PROMPTS):
    conditions = text_conditions(folder, embedder)
    with Kept(weights_file(conditions), conditions) as kept:
        return class_weights(embedder, names, prompts, batch_size=4, kept=kept)


def test_a_class_is_the_mean_of_its_prompts_at_norm_one(models):
    folder, embedder = models[0]
    found = weights(folder, embedder)
    for name, row in zip(NAMES, found, strict=True):
        by_hand = normalize(embedder.texts([prompt.format(name) for prompt in PROMPTS]).mean(dim=0), dim=0)
        assert torch.allclose(row, by_hand, atol=1e-5)
    assert not torch.allclose(found[0], found[1], atol=1e-3)


def test_what_was_computed_is_not_computed_again(models, asked):
    folder, embedder = models[0]
    first = weights(folder, embedder)
    assert len(asked) == 9
    assert torch.equal(weights(folder, embedder, NAMES[::-1]), first.flip(0))
    assert len(asked) == 9
    weights(folder, embedder, [*NAMES, "cat"])
    weights(folder, embedder, ["eel"])
    assert asked[9:] == ["a eel.", "the eel here", "no eel"]


def test_other_prompts_and_another_model_have_weights_of_their_own(models, asked):
    folder, embedder = models[0]
    first = weights(folder, embedder)
    assert not torch.allclose(weights(folder, embedder, prompts=PROMPTS[:1]), first, atol=1e-3)
    assert not torch.allclose(weights(*models[1]), first, atol=1e-3)
    assert torch.equal(weights(folder, embedder), first)
    assert len(asked) == 9 + 3 + 9
