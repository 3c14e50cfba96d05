"""FineViTDualModel: embeddings, logits, loss, and the ways in and out of it."""

import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import (
    AutoModel,
    AutoModelForZeroShotImageClassification,
    AutoProcessor,
    Siglip2Config,
    Siglip2Model,
    SiglipConfig,
    SiglipModel,
    pipeline,
)

from modeling_finevit import FineViTDualConfig, FineViTDualModel, FineViTDualProcessor, FineViTModel, region_features
from tests.support.dual_cases import CAPTIONS, make_dual, make_pairs, make_processor, plain_sigmoid_loss
from tests.support.encoder_cases import RAGGED_GRID, make_model

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def processor():
    return make_processor()


@pytest.fixture(scope="module")
def folder(processor, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dual")
    make_dual(processor).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def picture(colour, size=(90, 61)):
    return Image.linear_gradient("L").resize(size).convert("RGB").point(lambda value: min(255, value + colour))


def test_loss_and_logits_follow_from_the_embeddings(processor):
    model, pairs = make_dual(processor), make_pairs(processor)
    outputs = model(**pairs, return_loss=True)
    image_embeds = F.normalize(model.get_image_features(pairs["pixel_values"], pairs["image_grid_thw"]).pooler_output)
    text_embeds = F.normalize(model.get_text_features(pairs["input_ids"]).pooler_output)
    torch.testing.assert_close(outputs.image_embeds, image_embeds)
    torch.testing.assert_close(outputs.text_embeds, text_embeds)
    expected = model.logit_scale.exp() * image_embeds @ text_embeds.T + model.logit_bias
    torch.testing.assert_close(outputs.logits_per_image, expected)
    torch.testing.assert_close(outputs.logits_per_text, expected.T)
    torch.testing.assert_close(
        outputs.loss, plain_sigmoid_loss(image_embeds, text_embeds, model.logit_scale.exp(), model.logit_bias)
    )
    shuffled = {**pairs, "input_ids": pairs["input_ids"].roll(1, 0)}
    assert (model(**shuffled, return_loss=True).loss - outputs.loss).abs() > 1e-4
    assert model(**pairs).loss is None
    assert [len(part) for part in model(**pairs, return_dict=False)[:4]] == [len(CAPTIONS)] * 4


def test_every_parameter_learns(processor):
    model = make_dual(processor)
    model(**make_pairs(processor), return_loss=True).loss.backward()
    assert not [name for name, parameter in model.named_parameters() if not parameter.grad.abs().any()]


def test_scale_and_bias_start_as_siglips():
    model = FineViTDualModel(FineViTDualConfig.from_size("nano", text_config={"vocab_size": 8}))
    assert model.logit_scale.exp().item() == pytest.approx(10)
    assert model.logit_bias.item() == -10
    assert model.pooling.queries.abs().sum() > 0


def test_a_plain_batch_of_pictures_gives_the_embeddings_of_packed_ones(processor):
    from modeling_finevit.patches import pack_images

    model, images = make_dual(processor), torch.randn(2, 3, 56, 84, generator=torch.Generator().manual_seed(0))
    packed = model.get_image_features(*pack_images(images, 14, 2)).pooler_output
    assert torch.equal(model.get_image_features(images).pooler_output, packed)


def test_the_grid_may_be_an_array_which_no_wrapper_moves_to_a_device(processor):
    model, pairs = make_dual(processor), make_pairs(processor)
    regions = {
        "boxes": torch.tensor([[0.0, 0.0, 40.0, 40.0]]),
        "image_index": torch.tensor([1]),
        "image_sizes": RAGGED_GRID[:, 1:] * 14,
        "input_ids": pairs["input_ids"][:1],
    }
    expected = model(**pairs, regions=regions)
    given = model(**pairs | {"image_grid_thw": RAGGED_GRID.numpy()}, regions=regions)
    assert torch.equal(given.image_embeds, expected.image_embeds)
    assert torch.equal(given.region_embeds, expected.region_embeds)


def test_a_region_is_embedded_by_its_mean_feature_alone(processor):
    model, pairs = make_dual(processor), make_pairs(processor)
    sizes = 14 * pairs["image_grid_thw"][:, 1:]
    boxes = torch.tensor([[0.0, 0.0, 84.0, 56.0], [28.0, 14.0, 56.0, 42.0]])
    asked = {"boxes": boxes, "image_index": torch.tensor([0, 1]), "image_sizes": sizes}
    outputs = model(**pairs, regions={**asked, "input_ids": pairs["input_ids"][:2]})
    torch.testing.assert_close(outputs.region_text_embeds, outputs.text_embeds[:2])
    hidden_states = outputs.vision_model_output.last_hidden_state
    features = region_features(hidden_states, pairs["image_grid_thw"], **asked)
    expected = F.normalize(torch.cat([model.pooling(one[None], torch.ones(1, 3).long()) for one in features]))
    torch.testing.assert_close(outputs.region_embeds, expected)
    moved = {**asked, "boxes": boxes + torch.tensor([5.0, 5.0, 5.0, 5.0]), "input_ids": pairs["input_ids"][:2]}
    assert (model(**pairs, regions=moved).region_embeds[1] - expected[1]).abs().max() > 1e-3


@pytest.mark.parametrize(("whole", "config"), [(Siglip2Model, Siglip2Config), (SiglipModel, SiglipConfig)])
@pytest.mark.parametrize("tokens", [1, 63, 64])
def test_texts_are_embedded_as_by_transformers_siglip(whole, config, tokens, tmp_path):
    torch.manual_seed(0)
    fields = {"vocab_size": 100, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2}
    fields |= {"num_attention_heads": 4, "max_position_embeddings": 64, "pad_token_id": 0}
    siglip = whole(config(text_config=fields, vision_config={"num_hidden_layers": 1})).eval()
    siglip.save_pretrained(tmp_path)
    make_model().save_pretrained(tmp_path / "vision")
    model = FineViTDualModel.from_vision_text_pretrained(tmp_path / "vision", tmp_path, make_processor(64))
    model.config.text_config.pad_token_id = 0
    ids = torch.randint(1, 100, (3, tokens))
    padded = F.pad(ids, (0, 64 - tokens))
    expected = siglip.get_text_features(padded).pooler_output
    torch.testing.assert_close(model.get_text_features(ids).pooler_output, expected, atol=1e-5, rtol=0)
    wrong = F.pad(ids, (64 - tokens, 0)) if tokens < 64 else ids.roll(1, 1)
    assert (siglip.get_text_features(wrong).pooler_output - expected).abs().max() > 1e-3


def test_auto_classes_and_the_processor_load_what_was_saved(folder, processor):
    pairs = make_pairs(processor)
    expected = make_dual(processor)(**pairs).logits_per_image
    for auto in (AutoModel, AutoModelForZeroShotImageClassification):
        model = auto.from_pretrained(folder)
        assert isinstance(model, FineViTDualModel)
        assert torch.equal(model(**pairs).logits_per_image, expected)
    loaded = AutoProcessor.from_pretrained(folder)
    assert isinstance(loaded, FineViTDualProcessor)
    assert torch.equal(loaded(text=CAPTIONS, return_tensors="pt").input_ids, pairs["input_ids"])


def test_the_encoder_loads_from_the_folder_of_both_towers(folder, processor):
    encoder, info = FineViTModel.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    expected = make_dual(processor).vision_model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in encoder.state_dict().items())


def test_the_zero_shot_pipeline_ranks_as_the_model_called_by_hand(folder):
    model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    labels = ["A Red Square", "two dogs on a mat that is much longer than the others", "17"]
    classify = pipeline("zero-shot-image-classification", model=str(folder))
    for image in (picture(0), picture(90, (61, 140))):
        inputs = processor(images=[image], text=labels, return_tensors="pt")
        scores = model(**inputs).logits_per_image[0].softmax(-1)
        found = classify(image, candidate_labels=labels, hypothesis_template="{}")
        assert [one["label"] for one in found] == [labels[place] for place in scores.argsort(descending=True)]
        assert [one["score"] for one in found] == pytest.approx(scores.sort(descending=True).values.tolist(), abs=1e-6)


@pytest.mark.parametrize("batch_size", [2, 3])
def test_the_zero_shot_pipeline_gives_the_same_in_batches_of_ragged_pictures(folder, batch_size):
    model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    labels = ["A Red Square", "two dogs on a mat", "17"]
    pictures = [picture(0), picture(90, (61, 140)), picture(0), picture(30, (196, 56)), picture(200)]
    inputs = processor(images=pictures, text=labels, return_tensors="pt")
    expected = model(**inputs).logits_per_image.softmax(-1)
    classify = pipeline("zero-shot-image-classification", model=str(folder))
    found = classify(pictures, candidate_labels=labels, hypothesis_template="{}", batch_size=batch_size)
    scores = [{one["label"]: one["score"] for one in of_picture} for of_picture in found]
    torch.testing.assert_close(torch.tensor([[one[label] for label in labels] for one in scores]), expected)
    assert len({round(one["17"], 4) for one in scores}) == 4  # of four pictures, one of which comes twice


def test_attention_implementations_agree(processor):
    pairs = make_pairs(processor)
    expected = make_dual(processor, "eager")(**pairs).logits_per_image
    for name in ("sdpa", "torch_varlen", "flex_attention"):
        found = make_dual(processor, {"vision_config": name, "text_config": "sdpa"})
        torch.testing.assert_close(found(**pairs).logits_per_image, expected, atol=1e-4, rtol=0)


def test_a_projection_is_made_where_widths_differ_and_it_is_asked_for(processor):
    narrow = {"hidden_size": 64, "num_attention_heads": 2, "projection_size": 64}
    with pytest.raises(ValueError, match=r"64 wide, the encoder's 128.*text_projection=True"):
        make_dual(processor, text_config=narrow)
    model = make_dual(processor, text_config=narrow, text_projection=True)
    assert model(**make_pairs(processor)).logits_per_image.shape == (6, 6)
    with pytest.raises(ValueError, match="both towers are 128 wide".capitalize()):
        make_dual(processor, text_projection=True)


def test_another_text_tower_than_siglips_is_refused():
    with pytest.raises(ValueError, match="text_config is a clip_text_model, which is no text tower"):
        FineViTDualConfig(vision_config={"hidden_size": 1536}, text_config={"model_type": "clip_text_model"})


def test_the_papers_towers_are_the_default():
    config = FineViTDualConfig()
    assert config.text_length == 256
    assert config.text_config.projection_size == config.vision_config.hidden_size == 1536


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("hides", [True, False])
def test_padding_in_the_middle_is_seen_unless_it_is_hidden(processor, hides, attention):
    model = make_dual(processor, attention, text_padding_mask=hides)
    texts = processor(text=["a red bus", ""], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        before = model.get_text_features(texts).pooler_output
        model.text_model.embeddings.position_embedding.weight[10:-1] += 1.0  # behind the texts, before what is pooled
        after = model.get_text_features(texts).pooler_output
    assert after.isfinite().all()
    assert after.equal(before) is hides


def test_the_pooling_head_starts_as_wide_as_siglips():
    """At 0.02, the encoder's spread, a head of width 128 looks at all patches alike."""
    text = {"vocab_size": 64, "max_position_embeddings": 8, "num_hidden_layers": 1}
    torch.manual_seed(0)
    weight = FineViTDualModel(FineViTDualConfig.from_size("nano", text_config=text)).pooling.q_proj.weight.detach()
    assert weight.std().item() == pytest.approx((2 / sum(weight.shape)) ** 0.5, rel=0.1)
