"""Patch `[row, column]` of the features is the one at that place in the picture, whatever the encoder."""

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch.nn import functional as F

from finevit_eval.dense.maps import box_mean
from finevit_eval.dense.patch_encoder import PatchEncoder
from finevit_eval.embedder import Embedder
from modeling_finevit import FineViTImageProcessorPil
from modeling_finevit.patches import patch_index
from modeling_finevit.regions import region_features
from tests.support.encoder_cases import make_model
from tests.support.tiny_teachers import FixedConfig, FixedPositions, scaling, tiny_teacher
from tests.support.vl_models import noise_image

ROWS, COLUMNS, PATCH = 6, 10, 14
PLACES = [(0, 0), (0, 9), (1, 2), (2, 1), (4, 7), (5, 0), (5, 9)]
PROCESSORS = {
    "dinov2": transformers.BitImageProcessorPil(size={"shortest_edge": 56}, do_center_crop=False),
    "dinov3": transformers.DINOv3ViTImageProcessor(size={"height": 64, "width": 64}),
    "siglip": transformers.SiglipImageProcessorPil(size={"height": 64, "width": 64}),
    "siglip2": transformers.Siglip2ImageProcessorPil(max_num_patches=16),
    "clip": transformers.CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}),
}


def features_of(encoder, picture):
    return encoder.encode(encoder.prepare(picture))[0]


def painted(size, place, patch=PATCH):
    """A grey picture with noise in the patch at one place."""
    pixels = np.full((size[1], size[0], 3), 128, np.uint8)
    row, column = (patch * at for at in place)
    pixels[row : row + patch, column : column + patch] = np.asarray(noise_image(3, patch, patch))
    return Image.fromarray(pixels)


def moved(encoder, picture):
    """`(R, C)`: how far each patch's features are from those of plain grey."""
    grey = Image.new("RGB", picture.size, (128, 128, 128))
    return (features_of(encoder, picture) - features_of(encoder, grey)).float().norm(dim=-1)


def place_of_largest(plane):
    return divmod(int(plane.argmax()), plane.shape[1])


def test_a_painted_patch_is_found_where_it_was_painted(encoder):
    size = (COLUMNS * PATCH, ROWS * PATCH)
    found = {place: moved(encoder, painted(size, place)) for place in PLACES}
    assert [place_of_largest(plane) for plane in found.values()] == PLACES
    assert found[4, 7].shape == (ROWS, COLUMNS)
    in_merge_order = {  # the control: packed patches taken for raster order
        place: plane[_row_and_column(encoder.merge_size)].view(ROWS, COLUMNS) for place, plane in found.items()
    }
    assert [place_of_largest(plane) for plane in in_merge_order.values()] != PLACES


def _row_and_column(merge_size):
    row, column = torch.arange(ROWS)[:, None], torch.arange(COLUMNS)
    order = patch_index(row, column, torch.tensor(COLUMNS), merge_size).flatten().argsort()
    return order // COLUMNS, order % COLUMNS


def test_what_is_at_the_left_is_shown_at_the_left(encoder):
    pixels = np.full((84, 168, 3), 128, np.uint8)
    pixels[:, :84] = np.asarray(noise_image(1, 84, 84))
    plane = moved(encoder, Image.fromarray(pixels))
    left, right = plane[:, :6], plane[:, 6:]
    assert left.min() > right.max()
    shifted = plane.roll(1, dims=1)
    assert shifted[:, :6].min() < shifted[:, 6:].max()
    swapped = plane.T.reshape(plane.shape)
    assert swapped[:, :6].min() < swapped[:, 6:].max()


def test_features_are_the_models_own_output_out_of_merge_order(encoder):
    pictures = [noise_image(0, 140, 84), noise_image(1, 56, 112)]
    one_by_one = [features_of(encoder, picture) for picture in pictures]
    inputs = encoder.image_processor(images=pictures, return_tensors="pt")
    with torch.no_grad():
        hidden = encoder.model(**inputs).last_hidden_state
    first, second = hidden.split(inputs["image_grid_thw"].prod(-1).tolist())
    for row, column in PLACES:
        index = patch_index(torch.tensor(row), torch.tensor(column), torch.tensor(COLUMNS), 2)
        torch.testing.assert_close(one_by_one[0][row, column], first[index], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(one_by_one[1].mean((0, 1)), second.mean(0), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", list(PROCESSORS))
def test_other_encoders_show_a_painted_patch_where_it_is_in_a_picture_of_any_aspect(family):
    encoder = PatchEncoder(Embedder(tiny_teacher(family), PROCESSORS[family]))
    patch = encoder.teacher.patch_size
    places = [(0, 0), (0, 4), (1, 3), (2, 1)]
    found = [moved(encoder, painted((5 * patch, 3 * patch), place, patch)) for place in places]
    assert found[0].shape == (3, 5)
    assert [place_of_largest(plane) for plane in found] == places
    area = encoder.facts["size"]["longest_edge"]
    rows, columns = features_of(encoder, noise_image(0, 800, 100)).shape[:2]
    assert columns > 4 * rows
    assert rows * columns * patch**2 <= area


def test_an_encoder_of_one_size_sees_every_picture_stretched_to_it():
    embedder = Embedder(FixedPositions(FixedConfig()), scaling())
    encoder = PatchEncoder(embedder)
    plane = moved(encoder, painted((160, 80), (3, 1), patch=20))
    assert plane.shape == (4, 4)
    assert place_of_largest(plane) == (3, 0)
    assert encoder.facts["stretched_to"] == [4, 4]
    with pytest.raises(ValueError, match="in one size; leave max_pixels out"):
        PatchEncoder(embedder, max_pixels=4096)


def test_an_area_budget_makes_fewer_patches():
    encoder = PatchEncoder(Embedder(make_model(), FineViTImageProcessorPil()), max_pixels=56 * 56)
    assert features_of(encoder, noise_image(0, 280, 280)).shape[:2] == (4, 4)
    assert encoder.facts["size"]["longest_edge"] == 56 * 56


def test_a_patch_among_texts_is_what_a_box_around_its_middle_is(dual):
    """By FineViT-Dual's own region features: the mean of a box as small as a point is the patch's feature."""
    picture = noise_image(2, 140, 84)
    features = features_of(dual, picture)
    inputs = dual.image_processor(images=[picture], return_tensors="pt")
    middles = (torch.tensor(PLACES).flip(1) + 0.5) * PATCH
    boxes = torch.cat([middles - 0.01, middles + 0.01], dim=1)
    with torch.no_grad():
        hidden = dual.model.get_image_features(**inputs).last_hidden_state
        sizes, index = torch.tensor([[84, 140]]), torch.zeros(len(PLACES), dtype=torch.long)
        regions = dual.model.get_region_features(hidden, inputs["image_grid_thw"], boxes, index, sizes)
    embedded = dual.embedded(features)
    for (row, column), region in zip(PLACES, F.normalize(regions, dim=-1), strict=True):
        torch.testing.assert_close(embedded[row, column], region, atol=1e-3, rtol=0)
        assert (embedded[row, (column + 1) % COLUMNS] - region).abs().max() > 1e-2


def test_attention_is_what_the_pooled_embedding_was_made_with(dual):
    """Its weights, summed over values by hand, give the image's embedding; shuffled ones do not."""
    features = features_of(dual, noise_image(2, 140, 84))
    shares, pooling = dual.attention(features), dual.model.pooling
    assert shares.shape == (ROWS, COLUMNS)
    assert shares.mean().item() == pytest.approx(1, abs=1e-5)
    flat = features.flatten(0, 1)
    grid = torch.tensor([[1, ROWS, COLUMNS]])
    with torch.no_grad():
        q, k = (part.unflatten(-1, (4, -1)) for part in (pooling.q_proj(pooling.queries), pooling.k_proj(flat)))
        by_hand = (torch.einsum("qhd,thd->qht", q, k) * q.shape[-1] ** -0.5).softmax(-1).mean((0, 1)) * len(flat)
        assert pooling.attention_weights(flat, grid).sum(0).allclose(torch.ones(1, 4))
    torch.testing.assert_close(shares.flatten(), by_hand, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(shares.T.reshape(shares.shape), shares, atol=1e-3)


def test_siglips_head_places_single_patches_and_clips_cannot(pooled_by):
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    vision = small | {"patch_size": 16, "image_size": 64}
    text = small | {"vocab_size": 50, "projection_size": 32}
    siglip = transformers.SiglipModel(transformers.SiglipConfig(vision_config=vision, text_config=text))
    encoder = pooled_by(PROCESSORS["siglip"], siglip)
    features = features_of(encoder, noise_image(0, 80, 48))
    with torch.no_grad():
        by_hand = siglip.vision_model.head(features[2, 4][None, None])
    torch.testing.assert_close(encoder.embedded(features)[2, 4], F.normalize(by_hand, dim=-1)[0], atol=1e-5, rtol=1e-4)
    clip = transformers.CLIPModel(
        transformers.CLIPConfig(vision_config=vision, text_config=small | {"vocab_size": 50})
    )
    encoder = pooled_by(PROCESSORS["clip"], clip)
    with pytest.raises(
        ValueError, match=r"CLIPModel gives single patches no place among texts.*FineViT-Dual or SigLIP"
    ):
        encoder.embedded(features)


def test_a_box_on_the_raster_is_the_box_on_packed_patches(encoder):
    picture, box = noise_image(0, 140, 84), (20.0, 10.0, 90.0, 60.0)
    inputs = encoder.image_processor(images=[picture], return_tensors="pt")
    with torch.no_grad():
        hidden = encoder.model(**inputs).last_hidden_state
    packed = region_features(
        hidden, inputs["image_grid_thw"], torch.tensor([box]), torch.zeros(1).long(), torch.tensor([[84, 140]])
    )[0]
    features = features_of(encoder, picture)
    torch.testing.assert_close(box_mean(features, box, picture.size), packed, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(box_mean(features.flip(1), box, picture.size), packed, atol=1e-2)


def test_an_encoder_reads_no_phrase(encoder):
    with pytest.raises(ValueError, match="reads no text"):
        encoder.phrase("the red bus")
