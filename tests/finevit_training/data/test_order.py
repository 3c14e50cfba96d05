"""The order of rows: every row as often as its weight says, the same for everybody, cut into rounds and windows."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finevit_training.data.order import Order, RoundKey

PARTS = st.lists(st.tuples(st.integers(0, 20), st.sampled_from([0.25, 1.0, 1.0, 2.0, 2.5])), min_size=1, max_size=30)


def order_of(parts, seed=0, window_rows=16, streams=3):
    return Order([rows for rows, _ in parts], [weight for _, weight in parts], seed, window_rows, streams)


def rounds(order, epoch=0):
    return [RoundKey(epoch, number) for number in range(order.num_rounds(epoch))]


def rows_of(order, parts, epoch=0):
    windows = [window for key in rounds(order, epoch) for window in order.windows(key)]
    counts = [[parts[piece.part][0] for piece in order.pieces(window)] for window in windows]
    return [row for window, count in zip(windows, counts, strict=True) for row in order.row_keys(window, count)]


@given(PARTS, st.integers(0, 3))
def test_every_row_comes_as_often_as_its_weight_says(parts, epoch):
    if not any(rows for rows, _ in parts):
        with pytest.raises(ValueError, match="no rows"):
            order_of(parts)
        return
    rows = rows_of(order_of(parts), parts, epoch)
    assert len(rows) == len(set(rows))
    seen = Counter((row.part, row.row) for row in rows)
    for number, (count, weight) in enumerate(parts):
        times = [seen[number, row] for row in range(count)]
        assert all(int(weight) <= many <= int(weight) + (weight % 1 > 0) for many in times)
        assert abs(sum(times) - weight * count) < 1


@given(PARTS)
def test_rounds_of_an_epoch_have_nearly_as_many_windows_and_no_more_than_there_are_streams(parts):
    parts = [*parts, (5, 1.0)]
    order = order_of(parts)
    sizes = [len(order.windows(key)) for key in rounds(order)]
    assert max(sizes) <= 3
    assert max(sizes) - min(sizes) <= 1
    assert order.after(RoundKey(0, len(sizes) - 1)) == RoundKey(1, 0)


def test_the_order_follows_from_seed_and_epoch_alone():
    parts = [(8, 1.0)] * 20
    first = rows_of(order_of(parts), parts)
    assert rows_of(order_of(parts), parts) == first
    again = order_of(parts)
    rows_of(again, parts, 5)  # what was looked at before changes nothing
    assert rows_of(again, parts) == first
    assert rows_of(order_of(parts, seed=1), parts) != first
    assert [row[1:] for row in rows_of(order_of(parts), parts, 1)] != [row[1:] for row in first]


def test_a_share_of_a_source_is_another_one_each_epoch():
    parts = [(100, 0.3)]
    drawn = [frozenset(row.row for row in rows_of(order_of(parts), parts, epoch)) for epoch in range(4)]
    assert {len(rows) for rows in drawn} == {30}
    assert len(set(drawn)) == 4


def test_pieces_of_all_sources_are_mixed():
    parts = [(8, 1.0)] * 40
    order = order_of(parts, window_rows=32, streams=4)
    firsts = [piece.part for window in order.windows(RoundKey(0, 0)) for piece in order.pieces(window)]
    assert np.std(firsts) > 8
    assert firsts != sorted(firsts)


def test_a_hundred_million_rows_are_ordered_in_a_moment():
    order = Order(np.full(1_000_000, 100), np.ones(1_000_000), 0, 256, 16)
    last = order.windows(RoundKey(0, order.num_rounds(0) - 1))
    assert sum(len(order.pieces(window)) for window in last) > 10
