"""A table of segments becomes indices, boundaries and masks, all of which say the same about who sees whom."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from finevit_vl.packed_layout import PackedLayout

LENGTH = 300


def read(table, rows=2, length=LENGTH):
    return PackedLayout.read(torch.tensor(table, dtype=torch.int32), torch.empty(rows, length))


@st.composite
def tables(draw):
    """Rows of pictures with turns, conversations and padding, in any order."""
    table = []
    for row in range(draw(st.integers(1, 2))):
        place, roots = row * LENGTH, []
        for _ in range(draw(st.integers(1, 12))):
            place += draw(st.integers(0, 3))
            length = draw(st.integers(1, 70))
            if place + length > (row + 1) * LENGTH:
                break
            prefix = draw(st.sampled_from(roots)) if roots and draw(st.booleans()) else (0, 0)
            if prefix == (0, 0):
                roots.append((place, length))
            table.append([place, length, *prefix])
            place += length
    return draw(st.permutations(table))


def visible_by_definition(table):
    """(tokens, tokens): the whole prefix, and the segment up to the token itself."""
    seen = torch.zeros(2 * LENGTH, 2 * LENGTH, dtype=torch.bool)
    for start, length, prefix_start, prefix_length in table:
        own = slice(start, start + length)
        seen[own, own] = torch.ones(length, length, dtype=torch.bool).tril()
        seen[own, prefix_start : prefix_start + prefix_length] = True
    return seen


def within(window, seen, layout):
    positions = layout.position_ids.flatten()
    return seen & (positions[:, None] - positions < window) if window else seen


def visible_in_blocks(layout, window):
    seen = torch.zeros(2 * LENGTH, 2 * LENGTH, dtype=torch.int)
    blocks, queries, keys = layout.blocks, 0, 0
    token_of = torch.full((len(blocks.query_index) + 1,), -1)
    token_of[blocks.place_index] = torch.arange(2 * LENGTH)
    for block, shape in enumerate(blocks.shapes):
        mask = layout.block_mask(block, torch.float32, window)
        for number in range(shape.count):
            for at in range(shape.queries):
                token = token_of[queries + number * shape.queries + at]
                found = blocks.key_index[keys + number * shape.keys :][: shape.keys][mask[number, 0, at] == 0]
                if token >= 0 and layout.token_mask.flatten()[token]:
                    seen[token].index_add_(0, found, torch.ones(len(found), dtype=torch.int))
        queries += shape.count * shape.queries
        keys += shape.count * shape.keys
    assert seen.max() <= 1, "a key was met twice"
    return seen.bool()


def visible_to_the_kernel(layout):
    varlen = layout.varlen
    keys = torch.arange(2 * LENGTH) if varlen.key_index is None else varlen.key_index
    seen = torch.zeros(2 * LENGTH, 2 * LENGTH, dtype=torch.bool)
    for (q0, q1), (k0, k1) in zip(
        varlen.cu_seqlens_q.unfold(0, 2, 1).tolist(), varlen.cu_seqlens_k.unfold(0, 2, 1).tolist(), strict=True
    ):
        assert q1 - q0 <= varlen.max_q
        assert k1 - k0 <= varlen.max_k
        for query in range(q0, q1):
            seen[query, keys[k0 : k1 - (q1 - 1 - query)]] = True
    return seen


def visible_to_flex(layout, window):
    mask = layout.flex_mask(window)
    index = torch.arange(2 * LENGTH)
    allowed = mask.mask_mod(torch.tensor(0), torch.tensor(0), index[:, None], index[None])
    computed = mask.to_dense()[0, 0].bool().repeat_interleave(128, 0).repeat_interleave(128, 1)
    return allowed & computed[: 2 * LENGTH, : 2 * LENGTH]


@given(tables())
@settings(max_examples=15, deadline=None)
def test_every_implementation_sees_what_the_table_says(table):
    layout, seen = read(table), visible_by_definition(table)
    tokens = layout.token_mask.flatten().bool()
    assert torch.equal(visible_to_the_kernel(layout)[tokens], seen[tokens])
    assert not visible_to_the_kernel(layout)[~tokens][:, tokens].any()
    for window in (None, 9):
        expected = within(window, seen, layout)
        assert torch.equal(visible_in_blocks(layout, window), expected)
        assert torch.equal(visible_to_flex(layout, window)[tokens], expected[tokens])


@given(tables())
@settings(max_examples=30, deadline=None)
def test_positions_count_on_from_the_prefix(table):
    layout = read(table)
    positions, tokens = layout.position_ids.flatten(), layout.token_mask.flatten()
    for start, length, _, prefix_length in table:
        assert positions[start : start + length].tolist() == list(range(prefix_length, prefix_length + length))
        assert tokens[start : start + length].all()
    assert tokens.sum() == sum(length for _, length, *_ in table)
    assert not positions[tokens == 0].any()


def test_without_prefixes_keys_lie_as_queries_do():
    """cuDNN's kernel is causal only for one and the same tensor of boundaries."""
    varlen = read([[0, 5, 0, 0], [5, 7, 0, 0]]).varlen
    assert varlen.key_index is None
    assert varlen.cu_seqlens_k is varlen.cu_seqlens_q
    assert varlen.cu_seqlens_q.dtype == torch.int32
    assert read([[0, 5, 0, 0], [5, 7, 0, 5]]).varlen.key_index is not None


def test_segments_of_similar_length_are_computed_together():
    """Each block is a few calls, and each new shape kernels that a CPU must build."""
    lengths = torch.randint(10, 120, (60,), generator=torch.Generator().manual_seed(0))
    starts = lengths.cumsum(0) - lengths
    table = torch.stack([starts, lengths, *torch.zeros(2, 60, dtype=torch.long)], 1)
    shapes = PackedLayout.read(table, torch.empty(1, int(lengths.sum()))).blocks.shapes
    assert [(shape.queries, shape.keys) for shape in shapes] == [(32, 32), (64, 64), (96, 96), (128, 128)]
    assert sum(shape.count for shape in shapes) == 60
    assert sum(shape.count * shape.queries for shape in shapes) < 1.3 * lengths.sum()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ([[0, 5, 0]], "one row of four integers"),
        ([[0.0, 5.0, 0.0, 0.0]], "one row of four integers"),
        ([[0, 0, 0, 0]], "empty or lies outside"),
        ([[590, 11, 0, 0]], "empty or lies outside"),
        ([[290, 11, 0, 0]], "crosses rows"),
        ([[0, 5, 0, 0], [4, 5, 0, 0]], "overlap"),
        ([[0, 5, 0, 0], [5, 5, 0, 4]], "whole earlier segment"),
        ([[0, 5, 0, 0], [5, 5, 1, 4]], "whole earlier segment"),
        ([[0, 5, 5, 5], [5, 5, 0, 0]], "whole earlier segment"),
        ([[0, 5, 0, 0], [300, 5, 0, 5]], "whole earlier segment"),
        ([[0, 5, 0, 0], [5, 5, 0, 5], [10, 5, 5, 5]], "whole earlier segment"),
        ([[5, 5, 700, 5]], "whole earlier segment"),
    ],
)
def test_a_table_that_cannot_be_is_refused(table, message):
    with pytest.raises(ValueError, match=message):
        PackedLayout.read(torch.tensor(table), torch.empty(2, LENGTH))


def test_no_segments_at_all_are_refused():
    with pytest.raises(ValueError, match="at least one"):
        PackedLayout.read(torch.empty(0, 4, dtype=torch.int32), torch.empty(2, LENGTH))
