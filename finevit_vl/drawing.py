# Copyright 2026 The FineViT project. Licensed under the Apache License, Version 2.0.
"""Boxes and their names drawn onto pictures, for people to look at."""

from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

# Far apart in hue and readable under white text (Tableau 10 without its pale members).
COLORS = ("#d62728", "#1f77b4", "#2ca02c", "#9467bd", "#c15a00", "#b5179e", "#00766c", "#5c4033")


def draw_boxes(
    image: Image.Image,
    boxes: Sequence[Sequence[float]],
    labels: Sequence[str | None] | None = None,
    colors: Sequence[str] | None = None,
) -> Image.Image:
    """Draw boxes and their names onto an RGB copy of a picture; line and letter sizes follow the picture's size.

    Args:
        image: any PIL picture; it is not changed.
        boxes: `x1, y1, x2, y2` in pixels; what lies outside the picture is cut off.
        labels: one a box; `None` draws no name.
        colors: one a box; by default they take turns.

    Raises:
        ValueError: labels or colors differ from the boxes in number.
    """
    for name, values in (("labels", labels), ("colors", colors)):
        if values is not None and len(values) != len(boxes):
            raise ValueError(f"Got {len(values)} {name} for {len(boxes)} boxes: pass one for each box.")
    canvas = image.convert("RGB")
    if canvas is image:
        canvas = image.copy()
    draw = ImageDraw.Draw(canvas)
    short_side = min(canvas.size)
    line_width = max(1, round(short_side / 200))
    font = ImageFont.load_default(size=max(9, round(short_side / 36)))
    for index, box in enumerate(boxes):
        color = colors[index] if colors is not None else COLORS[index % len(COLORS)]
        x1, y1, x2, y2 = box
        draw.rectangle((min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)), outline=color, width=line_width)
        label = labels[index] if labels is not None else None
        if label:
            _draw_label(draw, label, min(x1, x2), min(y1, y2), canvas.size, color, font)
    return canvas


def _draw_label(
    draw: ImageDraw.ImageDraw, label: str, x: float, y: float, size: tuple[int, int], color: str, font: Any
) -> None:
    """The name on a coloured plate above the corner `(x, y)`, moved inside where it would leave the picture."""
    left, top, right, bottom = draw.textbbox((0, 0), label, font=font)
    plate_width, plate_height = right - left + 4, bottom - top + 4
    x = max(0, min(x, size[0] - plate_width))
    y = max(0, y - plate_height) if y >= plate_height else min(y, size[1] - plate_height)
    draw.rectangle((x, y, x + plate_width, y + plate_height), fill=color)
    draw.text((x + 2 - left, y + 2 - top), label, fill="white", font=font)
