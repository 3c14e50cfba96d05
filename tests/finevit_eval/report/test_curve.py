"""The training curve is drawn as it was logged."""

import re

import pytest

from finevit_eval.report.axes import linear_ticks, short_number
from finevit_eval.report.curve import curve_svg

CURVE = [{"step": step, "loss": 4.0 / step**0.5} for step in range(1, 200)]


def test_the_curve_falls_where_the_loss_falls():
    (path,) = re.findall(r'class="smooth" d="M([^"]+)"', curve_svg(CURVE))
    heights = [float(point.split()[1]) for point in path.split("L")]
    assert heights == sorted(heights), "SVG's y grows downwards"
    assert len(heights) == len(CURVE)


@pytest.mark.parametrize(
    "curve",
    [
        [],
        [{"step": 1, "loss": 1.0}],
        [{"step": 1, "loss": float("nan")}, {"step": 2, "loss": 1.0}],
        [{"epoch": 1}] * 3,
    ],
)
def test_a_curve_without_two_points_is_left_out(curve):
    assert curve_svg(curve) == ""


def test_ticks_are_round_and_short():
    assert linear_ticks(0.0, 0.93, 4) == pytest.approx([0.0, 0.5])
    assert [short_number(value) for value in (950, 12_500, 3_000_000, 2e9)] == ["950", "12.5k", "3M", "2B"]
