"""Sequences and windows against Transformers' own helpers for the Qwen family."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import create_mask
from transformers.vision_utils import get_vision_cu_seqlens, get_vision_window_index

from modeling_finevit.layouts import flex_block_mask, image_layout, window_layout
from modeling_finevit.patches import frame_sizes

pytestmark = pytest.mark.model

grids = st.lists(st.tuples(st.integers(1, 2), st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=8).map(
    lambda rows: torch.tensor([[t, 2 * h, 2 * w] for t, h, w in rows])
)


def sequences_of(layout, count):
    """The set of patches of each sequence, whatever the order."""
    order = torch.arange(count) if layout.order is None else layout.order
    return [frozenset(part.tolist()) for part in order.split(layout.cu_seqlens.diff().tolist())]


@given(grids, st.booleans())
@settings(max_examples=60, deadline=None)
def test_each_image_is_one_sequence(grid, by_length):
    layout = image_layout(frame_sizes(grid), by_length)
    assert by_length or layout.order is None
    bounds = get_vision_cu_seqlens(grid).tolist()
    expected = [frozenset(range(a, b)) for a, b in pairwise(bounds)]
    found = sequences_of(layout, bounds[-1])
    assert [found[rank] for rank in layout.ranks] == expected


@given(grids, st.booleans())
@settings(max_examples=60, deadline=None)
def test_windows_equal_qwen(grid, by_length):
    total = int(grid.prod(-1).sum())
    index, bounds = get_vision_window_index(grid, spatial_merge_size=2, window_size=112, patch_size=14)
    blocks = torch.arange(total).view(-1, 4)[index].flatten()
    expected = {frozenset(part.tolist()) for part in blocks.split(bounds.diff().tolist())}
    assert set(sequences_of(window_layout(frame_sizes(grid), 2, 8, by_length), total)) == expected


@given(grids)
@settings(max_examples=60, deadline=None)
def test_layouts_are_permutations_in_few_runs(grid):
    for layout in (image_layout(frame_sizes(grid), True), window_layout(frame_sizes(grid), 2, 8, True)):
        lengths = layout.cu_seqlens.diff().tolist()
        assert [length for count, length in layout.runs for _ in range(count)] == lengths
        assert layout.max_seqlen == max(lengths)
        assert len(layout.runs) == len(set(lengths))
        assert sorted(layout.ranks) == list(range(len(lengths)))
        if layout.order is not None:
            assert torch.equal(layout.order[layout.inverse], torch.arange(int(grid.prod(-1).sum())))


@given(grids)
@settings(max_examples=15, deadline=None)
def test_block_mask_equals_the_dense_mask(grid):
    layout = image_layout(frame_sizes(grid), False)
    total = int(layout.cu_seqlens[-1])
    block_mask = flex_block_mask(layout.cu_seqlens, total, block_size=16)
    sequence = torch.repeat_interleave(layout.cu_seqlens.diff().long())
    dense = sequence[:, None] == sequence[None]
    assert torch.equal(create_mask(block_mask.mask_mod, 1, 1, total, total, device="cpu")[0, 0], dense)
    padded = torch.nn.functional.pad(dense, (0, -total % 16, 0, -total % 16))
    tiles = padded.unflatten(0, (-1, 16)).unflatten(2, (-1, 16)).transpose(1, 2)
    assert torch.equal(block_mask.to_dense()[0, 0].bool(), tiles.any(-1).any(-1))
    assert block_mask.full_kv_num_blocks is not None
    full_counts = block_mask.full_kv_num_blocks[0, 0]
    assert torch.equal(full_counts.long(), tiles.all(-1).all(-1).sum(-1))
