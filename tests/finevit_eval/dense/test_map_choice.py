"""What was asked for is what a hand would compute."""

import pytest
import torch

from finevit_eval.dense.map_choice import Asked, find_maps
from tests.support.vl_models import noise_image

ALL = Asked("a red square", (100, 60), (10, 10, 90, 60))


def test_likeness_to_a_phrase_is_the_cosine_of_the_pooled_patch_with_the_text(dual):
    features = [dual.encode(dual.prepare(noise_image(seed, 140, 84)))[0] for seed in range(2)]
    maps = {one.name: one.values for one in find_maps(dual, features, (140, 84), ALL)}
    with torch.no_grad():
        text = dual.model.get_text_features(**dual.embedder.processor(text="a red square", return_tensors="pt"))
        patch = dual.model.pooling(features[1][3, 8][None], torch.ones(1, 3, dtype=torch.long))
    expected = torch.cosine_similarity(patch, text.pooler_output).item()
    assert maps["phrase"][1][3, 8].item() == pytest.approx(expected, abs=1e-5)
    assert maps["phrase"][1][2, 8].item() != pytest.approx(expected, abs=1e-4)
    assert maps["point"][0][4, 7].item() == pytest.approx(1, abs=1e-5)
    assert (maps["point"][1] < 0.999).all()
