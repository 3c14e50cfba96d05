"""Boxes drawn onto pictures."""

from typing import Any

import pytest
from PIL import Image, ImageChops, ImageColor

from finevit_vl.drawing import COLORS, draw_boxes


def colors_of(image: Image.Image) -> list[tuple[int, Any]]:
    """`(count, colour)` of every colour in the picture."""
    return image.getcolors(maxcolors=10**6) or []


class TestDrawing:
    def test_the_outline_lies_on_the_box_and_the_picture_is_not_changed(self):
        image = Image.new("RGB", (200, 100), "white")
        drawn = draw_boxes(image, [(50, 20, 150, 80)])
        difference = ImageChops.difference(image, drawn)
        assert difference.getbbox() == (50, 20, 151, 81)
        assert drawn.getpixel((100, 50)) == (255, 255, 255)
        assert {color for _, color in colors_of(drawn)} == {(255, 255, 255), ImageColor.getrgb(COLORS[0])}
        assert image.getcolors() == [(20_000, (255, 255, 255))]

    @pytest.mark.parametrize("box", [(0, 0, 20, 20), (100, 70, 112, 84), (60, 2, 112, 84)])
    def test_a_name_is_written_in_full_even_at_the_edge(self, box):
        """As many white pixels on the plate as in the middle of a larger picture."""

        def letter_pixels(size, box):
            drawn = draw_boxes(Image.new("RGB", size, "black"), [box], ["apple"], ["#000000"])
            return sum(count for count, color in colors_of(drawn) if sum(color) > 0)

        assert letter_pixels((112, 84), box) == letter_pixels((200, 200), (100, 100, 150, 150)) > 50

    @pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK"])
    def test_any_mode_is_drawn_on_in_colour(self, mode):
        drawn = draw_boxes(Image.new(mode, (60, 60)), [(5, 5, 50, 50)], ["x"])
        assert drawn.mode == "RGB"
        assert any(len(set(color)) > 1 for _, color in colors_of(drawn))

    def test_a_box_beyond_the_picture_is_cut_off(self):
        assert draw_boxes(Image.new("RGB", (30, 30)), [(-10, -10, 100, 100), (25, 25, 3, 3)], [None, "b"]).size == (
            30,
            30,
        )

    def test_names_and_colors_must_match_the_boxes(self):
        with pytest.raises(ValueError, match="2 labels for 1 boxes"):
            draw_boxes(Image.new("RGB", (9, 9)), [(0, 0, 5, 5)], ["a", "b"])
