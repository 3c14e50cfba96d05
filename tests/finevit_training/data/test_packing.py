"""Packing loses nothing, doubles nothing, and keeps samples apart."""

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finevit_training.data.packing import IGNORE_INDEX, lay_out, pack_full

LENGTHS = st.lists(st.integers(1, 64), max_size=60)


class TestPackFull:
    @given(LENGTHS)
    def test_every_sample_lies_in_one_row_and_no_row_is_too_long(self, lengths):
        rows = pack_full(lengths, 64)
        assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
        assert all(0 < sum(lengths[index] for index in row) <= 64 for row in rows)

    @given(LENGTHS)
    def test_no_two_rows_would_fit_into_one(self, lengths):
        rows = pack_full(lengths, 64)
        fills = sorted(sum(lengths[index] for index in row) for row in rows)
        assert len(rows) < 2 or fills[0] + fills[1] > 64, "two rows would fit into one"

    @given(LENGTHS)
    def test_the_same_lengths_give_the_same_rows_in_order(self, lengths):
        rows = pack_full(lengths, 64)
        assert rows == pack_full(list(lengths), 64)
        assert rows == sorted(sorted(row) for row in rows)

    @given(LENGTHS)
    def test_a_row_is_as_full_as_what_is_left_can_make_it(self, lengths):
        left = list(range(len(lengths)))
        for row in pack_full(lengths, 64):
            others = [lengths[index] for index in left if index != row[0]]
            sums = {0}
            for length in others:
                sums |= {before + length for before in sums}
            room = 64 - lengths[row[0]]
            assert sum(lengths[index] for index in row[1:]) == max(total for total in sums if total <= room)
            left = [index for index in left if index not in row]

    def test_fills_gaps_that_best_fit_leaves(self):
        """Best fit puts 5 beside 4 and leaves a token of each row."""
        assert pack_full([6, 5, 4, 2, 2, 1], 10) == [[0, 2], [1, 3, 4, 5]]

    @pytest.mark.parametrize("length", [0, 11])
    def test_a_sample_that_fits_no_row_is_named(self, length):
        with pytest.raises(ValueError, match=f"Sample 1 has {length} tokens"):
            pack_full([5, length], 10)


@st.composite
def packed_rows(draw):
    """Samples of one or more turns about a picture, each a list of segment lengths, in rows."""
    segments = st.lists(st.integers(1, 9), min_size=1, max_size=4)
    return draw(st.lists(st.lists(segments, max_size=3), min_size=1, max_size=3))


def sample_of(sizes, isolated):
    length, starts = sum(sizes), np.cumsum([0, *sizes[:-1]])
    seen = [(0, 0) if not number else (0, sizes[0]) for number in range(len(sizes))]
    whole = np.array([[0, length, 0, 0]])
    turns = np.array([[start, size, *before] for start, size, before in zip(starts, sizes, seen, strict=True)])
    ids = np.arange(1, length + 1, dtype=np.int32)
    return FakeDraft(ids, ids, (turns if isolated else whole).astype(np.int32))


class FakeDraft(NamedTuple):
    input_ids: np.ndarray
    labels: np.ndarray
    segments: np.ndarray

    def __len__(self):
        return len(self.input_ids)


class TestLayOut:
    @given(packed_rows(), st.booleans())
    @settings(max_examples=50)
    def test_tokens_positions_labels_and_segments(self, rows, isolated):
        samples = [[sample_of(sizes, isolated) for sizes in row] for row in rows]
        capacity = 128
        batch = lay_out(samples, capacity, pad_token_id=0)
        ids, labels, positions = (batch[key][0].tolist() for key in ("input_ids", "labels", "position_ids"))
        assert len(ids) == len(labels) == len(positions) == capacity * len(rows)
        covered = np.zeros(len(ids), dtype=bool)
        for start, length, prefix_start, prefix_length in batch["segments"].tolist():
            covered[start : start + length] = True
            assert positions[start : start + length] == list(range(prefix_length, prefix_length + length))
            assert labels[start] == IGNORE_INDEX
            assert labels[start + 1 : start + length] == ids[start + 1 : start + length]
            assert prefix_start + prefix_length <= start
        tokens = [token for row in samples for sample in row for token in sample.input_ids.tolist()]
        if tokens:
            assert [token for token, inside in zip(ids, covered, strict=True) if inside] == tokens
            assert not any(token for token, inside in zip(ids, covered, strict=True) if not inside)

    def test_a_batch_of_nothing_is_padding(self):
        batch = lay_out([[], []], 8, pad_token_id=7)
        assert batch["input_ids"].tolist() == [[7] * 16]
        assert (batch["labels"] == IGNORE_INDEX).all()
        assert batch["segments"].tolist() == [[0, 1, 0, 0]]
