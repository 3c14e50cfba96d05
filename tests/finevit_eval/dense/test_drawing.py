"""A drawing shows each value where its patch is, up to the border, in steps that look even."""

import numpy as np
import pytest
import torch
from PIL import Image

from finevit_eval.dense.drawing import canvas_size, colour_stops, coloured, mark, over

GREYS = np.array([0.0, 1.0])


def luminance(image):
    return np.asarray(image.convert("L")).astype(int)


def test_each_value_is_where_its_patch_is():
    for row, column in [(0, 0), (0, 9), (1, 2), (5, 0), (5, 9)]:
        values = torch.zeros(6, 10)
        values[row, column] = 1
        light = luminance(coloured(values, GREYS, (400, 240)))
        y, x = np.unravel_index(light.argmax(), light.shape)
        assert (y * 6 // 240, x * 10 // 400) == (row, column)


def test_the_outermost_patches_go_on_to_the_border():
    """No fading, no frame: the border is as light as the patches there, but for a step or two of the cubic's."""
    values = torch.zeros(4, 8)
    values[0], values[:, -1] = 1, 1
    light = luminance(coloured(values, GREYS, (320, 160)))
    assert min(light[0].min(), light[:, -1].min()) > light.max() - 5
    assert light[-1, 0] < light.min() + 5


def test_between_patches_colours_change_in_small_steps():
    ramp = torch.arange(8.0).expand(4, 8)
    light = luminance(coloured(ramp, np.array([0.0, 7.0]), (640, 320)))[160]
    assert np.abs(np.diff(light)).max() <= 2
    assert (np.diff(light) >= -1).all()


def test_equal_steps_of_a_value_are_nearly_equal_steps_of_light():
    stops = [tuple(int(colour[at : at + 2], 16) for at in (1, 3, 5)) for colour in colour_stops(9)]
    light = [(0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2) ** (1 / 2.4) for red, green, blue in stops]
    steps = np.diff(light)
    assert (steps > 0).all()
    assert steps.max() < 2.5 * steps.min()


def test_components_are_red_green_and_blue_and_one_without_spread_is_half_way():
    values = torch.zeros(2, 2, 3)
    values[:, 1, 0], values[1, :, 1] = 1, 1
    drawn = np.asarray(coloured(values, np.array([[0.0, 0, 0], [1, 1, 0]]), (40, 40)))
    assert drawn[0, -1].tolist() == [255, 0, 128]
    assert drawn[-1, 0].tolist() == [0, 255, 128]


@pytest.mark.parametrize(
    ("size", "drawn"),
    [((600, 400), (768, 512)), ((1000, 125), (1000, 125)), ((40, 320), (96, 768)), ((4000, 3000), (1536, 1152))],
)
def test_a_drawing_has_the_aspect_of_its_picture_and_is_neither_tiny_nor_huge(size, drawn):
    assert canvas_size(size) == drawn
    assert coloured(torch.rand(4, 6), GREYS, drawn).size == drawn


def test_the_picture_shines_through_and_marks_lie_where_they_were_asked():
    picture = Image.new("RGB", (100, 50), "black")
    picture.paste("white", (50, 0, 100, 50))
    drawn = over(picture, coloured(torch.full((2, 4), 0.5), GREYS, (800, 400)))
    light = luminance(drawn)
    assert light[200, 600] > light[200, 200] + 40
    plain = luminance(drawn)
    mark(drawn, picture.size, (25, 40))
    changed = np.argwhere(luminance(drawn) != plain)
    assert np.allclose(changed.mean(0), (320, 200), atol=2)
    mark(drawn, picture.size, (60, 10, 90, 30))
    assert drawn.getpixel((480, 160)) == (0, 0, 0)
    assert drawn.getpixel((482, 160)) == (255, 255, 255)
