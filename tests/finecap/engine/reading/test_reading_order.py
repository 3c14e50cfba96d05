"""Lines in the order in which a person reads them."""

import random

import hypothesis.strategies as st
from hypothesis import given, settings

from finecap.engine.reading.reading_order import reading_order


@st.composite
def boxes(draw):
    x, y = draw(st.integers(0, 500)), draw(st.integers(0, 500))
    return x, y, x + draw(st.integers(1, 300)), y + draw(st.integers(1, 40))


def lines_of(left, top, count, width=300, pitch=26, height=20):
    return [(left, top + pitch * i, left + width, top + pitch * i + height) for i in range(count)]


@settings(deadline=None)
@given(st.lists(boxes(), max_size=12), st.randoms(use_true_random=False))
def test_the_order_does_not_depend_on_the_order_in_which_lines_are_found(found, rng):
    shuffled = rng.sample(found, len(found))

    assert [found[i] for i in reading_order(found)] == [shuffled[i] for i in reading_order(shuffled)]


@settings(deadline=None)
@given(st.lists(boxes(), max_size=12))
def test_every_line_is_read_once(found):
    assert sorted(reading_order(found)) == list(range(len(found)))


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 300)), min_size=1, max_size=10), st.integers(0, 30))
def test_a_single_column_is_read_from_top_to_bottom(lines, gap):
    found, y = [], 0
    for indent, width in lines:
        found.append((indent, y, indent + 50 + width, y + 20))
        y += 20 + gap
    shuffled = random.Random(0).sample(found, len(found))

    assert [shuffled[i] for i in reading_order(shuffled)] == found


def test_columns_of_running_text_are_read_one_after_the_other():
    title, left, right = (100, 0, 600, 30), lines_of(0, 70, 5), lines_of(340, 72, 6)
    footer = (0, 300, 200, 320)

    page = [title, *left, *right, footer]
    mixed = random.Random(1).sample(page, len(page))

    assert [mixed[i] for i in reading_order(mixed)] == page


def test_cells_of_a_table_are_read_row_by_row_although_gaps_part_its_columns():
    rows = [[(x, 30 * row, x + 60, 30 * row + 20) for x in (0, 200, 400)] for row in range(5)]
    table = [cell for row in rows for cell in row]

    assert [table[i] for i in reading_order(table)] == table


def test_a_row_that_is_a_little_slanted_is_still_one_row():
    rows = [[(x, 30 * row + x // 60, x + 60, 30 * row + x // 60 + 20) for x in (0, 200, 400)] for row in range(4)]
    table = [cell for row in rows for cell in row]
    mixed = random.Random(2).sample(table, len(table))

    assert [mixed[i] for i in reading_order(mixed)] == table


def test_nothing_to_read():
    assert reading_order([]) == []
