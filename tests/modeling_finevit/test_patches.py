"""The merge order against Transformers' own helpers for the Qwen family."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.vision_utils import get_vision_position_ids

from modeling_finevit import FineViTImageProcessorPil
from modeling_finevit.patches import frame_sizes, pack_images, patch_index, patch_positions, unpack_image

pytestmark = pytest.mark.model

grids = st.lists(st.tuples(st.integers(1, 2), st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=8).map(
    lambda rows: torch.tensor([[t, 2 * h, 2 * w] for t, h, w in rows])
)


@given(grids)
@settings(max_examples=60, deadline=None)
def test_positions_equal_transformers(grid):
    row, column, _ = patch_positions(frame_sizes(grid), 2)
    assert torch.equal(torch.stack([row, column], -1), get_vision_position_ids(grid, 2))


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 3))
def test_the_index_of_a_place_is_the_way_back(rows, columns, merge_size):
    sizes = torch.tensor([[rows * merge_size, columns * merge_size]])
    row, column, _ = patch_positions(sizes, merge_size)
    assert patch_index(row, column, sizes[0, 1], merge_size).tolist() == list(range(len(row)))


def test_plain_batch_is_cut_like_the_processor_cuts():
    images = torch.randint(0, 256, (2, 3, 56, 84), dtype=torch.uint8)
    processor = FineViTImageProcessorPil(do_normalize=False)
    expected: Any = processor(list(images), return_tensors="pt", input_data_format="channels_first")
    patches, grid = pack_images(images / 255, 14, 2)
    torch.testing.assert_close(patches, expected["pixel_values"])
    assert torch.equal(grid, expected["image_grid_thw"])
    assert not torch.allclose(pack_images(images.transpose(2, 3) / 255, 14, 2)[0], expected["pixel_values"])


def test_plain_batch_of_other_sides_is_refused():
    with pytest.raises(ValueError, match="multiples of 28 pixels, got 56x60"):
        pack_images(torch.zeros(1, 3, 56, 60), 14, 2)


def test_an_image_is_unpacked_as_it_was_packed():
    images = torch.arange(2 * 3 * 56 * 84).reshape(2, 3, 56, 84)
    patches, _ = pack_images(images, 14, 2)
    assert torch.equal(torch.stack([unpack_image(part, 4, 6, 2) for part in patches.split(24)]), images)
    assert not torch.equal(unpack_image(patches[:24], 4, 6, 1), images[0])
    colours = unpack_image(torch.tensor([[r, c, 0] for r in range(2) for c in range(2)]), 2, 2, 2)
    assert colours.tolist()[:2] == [[[0, 0], [1, 1]], [[0, 1], [0, 1]]]
