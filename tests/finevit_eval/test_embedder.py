"""One vector of a picture from every kind of encoder, equal to what its own forward gives; texts where it reads."""

import pytest
import torch
import transformers
from torch.nn.functional import normalize

from finevit_eval.embedder import Embedder
from modeling_finevit import FineViTForMaskedImageModeling, FineViTImageProcessorPil, FineViTModel
from tests.support.dual_cases import make_dual, make_processor
from tests.support.encoder_cases import make_model
from tests.support.tiny_teachers import tiny_teacher
from tests.support.vl_models import noise_image

PICTURES = [noise_image(0, 84, 56), noise_image(1, 56, 112), noise_image(2, 140, 28)]
PROCESSORS = {
    "dinov2": transformers.BitImageProcessorPil(size={"height": 56, "width": 56}, do_center_crop=False),
    "siglip": transformers.SiglipImageProcessorPil(size={"height": 64, "width": 64}),
    "siglip2": transformers.Siglip2ImageProcessorPil(max_num_patches=16),
    "clip": transformers.CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}),
}


def saved(folder, model, processor):
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("stage_one", [False, True])
def test_finevit_gives_the_mean_of_each_pictures_patches(stage_one, tmp_path):
    model = make_model()
    if stage_one:
        encoder, model = model, FineViTForMaskedImageModeling(model.config)
        model.vision_model = encoder
    embedder = Embedder.from_pretrained(saved(tmp_path, model, FineViTImageProcessorPil()), dtype="float32")
    assert not embedder.reads_text
    vectors, patches = embedder.images(PICTURES), embedder.patches(PICTURES)
    by_hand = normalize(torch.stack([rows_TC.mean(dim=0) for rows_TC in patches]), dim=-1)
    assert torch.allclose(vectors, by_hand, atol=1e-5)
    assert not torch.allclose(vectors, by_hand.roll(1, dims=0), atol=1e-2)
    alone = [embedder.images([picture])[0] for picture in PICTURES]
    assert torch.allclose(vectors, torch.stack(alone), atol=1e-5)
    with pytest.raises(ValueError, match="reads no text"):
        embedder.texts(["a cat"])


def test_of_a_vision_language_model_it_is_the_encoder(model_dir):
    encoder = FineViTModel.from_pretrained(model_dir)
    embedder = Embedder.from_pretrained(str(model_dir))
    inputs = embedder.image_processor(images=PICTURES, return_tensors="pt")
    with torch.no_grad():
        expected = normalize(encoder(**inputs).pooler_output, dim=-1)
    assert torch.allclose(embedder.images(PICTURES), expected, atol=1e-6)
    assert embedder.facts["max_pixels"] == embedder.image_processor.size["longest_edge"]


@pytest.mark.parametrize("family", list(PROCESSORS))
def test_other_encoders_give_their_pooled_output(family, tmp_path):
    model = tiny_teacher(family)
    embedder = Embedder.from_pretrained(saved(tmp_path, model, PROCESSORS[family]))
    with torch.no_grad():
        outputs = model(**embedder.image_processor(images=PICTURES, return_tensors="pt"))
    assert torch.allclose(embedder.images(PICTURES), normalize(outputs.pooler_output, dim=-1), atol=1e-5)
    with pytest.raises(ValueError, match="leave max_pixels out"):
        Embedder.from_pretrained(str(tmp_path), max_pixels=5000)


def test_padding_is_no_patch(tmp_path):
    """SigLIP 2 of any aspect pads a batch to 16 patches: 84 x 56 pixels are 4 x 3 of them."""
    embedder = Embedder.from_pretrained(saved(tmp_path, tiny_teacher("siglip2"), PROCESSORS["siglip2"]))
    processed = embedder.image_processor(images=PICTURES, return_tensors="pt")
    assert [len(rows_TC) for rows_TC in embedder.patches(PICTURES)] == processed["spatial_shapes"].prod(-1).tolist()
    assert processed["spatial_shapes"].prod(-1).min() < 16


def test_a_dual_model_gives_the_embedding_that_it_compares_with_texts(tmp_path):
    processor = make_processor()
    model = make_dual(processor)
    embedder = Embedder.from_pretrained(saved(tmp_path, model, processor))
    assert embedder.reads_text
    inputs = embedder.processor(images=PICTURES, return_tensors="pt")
    with torch.no_grad():
        expected = normalize(model.get_image_features(**inputs).pooler_output, dim=-1)
    assert torch.allclose(embedder.images(PICTURES), expected, atol=1e-5)
    assert [len(rows_TC) for rows_TC in embedder.patches(PICTURES)] == inputs["image_grid_thw"].prod(-1).tolist()


def test_a_model_of_another_kind_is_refused(tmp_path):
    from tests.support.small_folders import save_qwen3

    with pytest.raises(ValueError, match="holds neither an encoder nor"):
        Embedder.from_pretrained(str(save_qwen3(tmp_path)))
