"""Region features against torchvision's RoIAlign on unpacked maps."""

import pytest
import torch

from modeling_finevit import region_features
from modeling_finevit.patches import patch_positions
from tests.support.encoder_cases import RAGGED_GRID, relative_error

pytestmark = pytest.mark.model
roi_align = pytest.importorskip("torchvision.ops", reason="the reference is torchvision's").roi_align

CHANNELS = 24
IMAGE_SIZES = torch.tensor([[60, 80], [301, 410], [90, 50], [28, 28], [500, 40], [70, 70]])


def make_case(seed=0, count=40):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(int(RAGGED_GRID.prod(-1).sum()), CHANNELS, generator=generator, dtype=torch.float32)
    index = torch.randint(0, len(RAGGED_GRID), (count,), generator=generator)
    sizes = IMAGE_SIZES[index].flip(-1).float()
    corners = torch.rand(count, 2, 2, generator=generator) * 1.3 - 0.15  # some reach out of the picture
    corners = corners.sort(1).values
    corners[:, 1] += 0.01
    return features, (corners * sizes[:, None]).flatten(1), index


def reference(features, boxes, index, points=14):
    """torchvision on each image's map, unpacked by position; boxes in patches."""
    maps = []
    sizes = RAGGED_GRID[:, 1:]
    row, column, image = patch_positions(sizes, 2)
    for number, (height, width) in enumerate(sizes.tolist()):
        mine = image == number
        raster = torch.argsort(row[mine] * width + column[mine])
        maps.append(features[mine][raster].T.reshape(1, CHANNELS, height, width))
    scale = (sizes / IMAGE_SIZES).flip(-1).repeat(1, 2)
    rows = [
        roi_align(maps[i], [box[None] * scale[i]], output_size=1, sampling_ratio=points, aligned=True).flatten(1)
        for i, box in zip(index.tolist(), boxes, strict=True)
    ]
    return torch.cat(rows)


def test_equal_to_torchvision_on_unpacked_maps():
    features, boxes, index = make_case()
    found = region_features(features, RAGGED_GRID, boxes, index, IMAGE_SIZES)
    expected = reference(features, boxes, index)
    assert found.shape == (40, CHANNELS)
    assert relative_error(found, expected) < 1e-5
    swapped = region_features(features, RAGGED_GRID, boxes[:, [1, 0, 3, 2]], index, IMAGE_SIZES)
    assert relative_error(swapped, expected) > 0.1
    raster = region_features(features, RAGGED_GRID, boxes, index, IMAGE_SIZES, spatial_merge_size=1)
    assert relative_error(raster, expected) > 0.1


def test_one_vector_is_the_mean_of_mask_rcnns_bins():
    features, boxes, index = make_case(1, 1)
    height, width = RAGGED_GRID[index[0], 1:].tolist()
    assert (
        relative_error(
            region_features(features, RAGGED_GRID, boxes, index, IMAGE_SIZES), reference(features, boxes, index, 14)
        )
        < 1e-5
    )
    row, column, image = patch_positions(RAGGED_GRID[:, 1:], 2)
    mine = image == index[0]
    raster = torch.argsort(row[mine] * width + column[mine])
    feature_map = features[mine][raster].T.reshape(1, CHANNELS, height, width)
    scale = torch.tensor([width, height, width, height]) / IMAGE_SIZES[index[0]].flip(-1).repeat(2)
    bins = roi_align(feature_map, [boxes * scale], output_size=7, sampling_ratio=2, aligned=True)
    assert relative_error(region_features(features, RAGGED_GRID, boxes, index, IMAGE_SIZES), bins.mean((2, 3))) < 1e-5


def test_gradients_equal_torchvision():
    features, boxes, index = make_case(2)
    ours, theirs = features.clone().requires_grad_(), features.clone().requires_grad_()
    weights = torch.randn(len(boxes), CHANNELS)
    (region_features(ours, RAGGED_GRID, boxes, index, IMAGE_SIZES) * weights).sum().backward()
    (reference(theirs, boxes, index) * weights).sum().backward()
    assert relative_error(ours.grad, theirs.grad) < 1e-5


def test_no_boxes_give_no_rows():
    features, boxes, index = make_case()
    assert region_features(features, RAGGED_GRID, boxes[:0], index[:0], IMAGE_SIZES).shape == (0, CHANNELS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": torch.tensor([[5.0, 5.0, 5.0, 9.0]])}, r"Boxes \[0\] are empty"),
        ({"image_index": torch.tensor([6])}, "image_index"),
        ({"boxes": torch.zeros(1, 5)}, "num_boxes, 4"),
        ({"image_sizes": IMAGE_SIZES[:2]}, "image_sizes"),
        ({"image_grid_thw": RAGGED_GRID[:5]}, "image_sizes|patches"),
    ],
)
def test_wrong_input_is_named(change, message):
    features, boxes, index = make_case(count=1)
    arguments = {"image_grid_thw": RAGGED_GRID, "boxes": boxes, "image_index": index, "image_sizes": IMAGE_SIZES}
    with pytest.raises(ValueError, match=message):
        region_features(features, **(arguments | change))
