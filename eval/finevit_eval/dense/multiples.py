"""The page: every map of every picture as small multiples, in one HTML file that needs nothing else."""

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment
from PIL import Image

from finecap.files import write_text
from finecap.pictures import encoded
from finevit_eval.dense.drawing import OPACITY, canvas_size, colour_stops

AREA = 255 * 255
"""CSS pixels of a panel before panels are widened to fill their row; columns are no narrower than a caption, and no
panel is taller than this.
"""
NARROWEST, TALLEST = 130, 600
WIDTH, GAP = 1072, 16
"""CSS pixels of a row on a wide screen, and between panels."""
QUALITY = 92
"""Of the JPEGs inside the page: maps are smooth."""


@dataclass(frozen=True)
class Panel:
    """One map of one picture in colours, and the point or box to be marked, in pixels of the picture."""

    title: str
    coloured: Image.Image
    mark: Sequence[float]


@dataclass(frozen=True)
class Shown:
    """A picture with rows and columns of its patches, and its panels."""

    name: str
    picture: Image.Image
    grid: Sequence[int]
    panels: list[Panel]


@dataclass(frozen=True)
class Key:
    """How a map is read, and where its colours begin and end."""

    title: str
    note: str
    colours: np.ndarray


def write_page(page: Path, shown: Sequence[Shown], keys: Sequence[Key], facts: Mapping[str, Any]) -> None:
    """Writes the HTML file.

    Args:
        facts: of the model and of how pictures were prepared, at the foot of the page.
    """
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    source = files("finevit_eval.dense").joinpath("multiples.html.jinja").read_text(encoding="utf-8")
    html = environment.from_string(source).render(
        model=facts["model"],
        keys=[_key(key) for key in keys],
        colours=", ".join(colour_stops()),
        opacity=round(100 * OPACITY),
        gap=GAP,
        pictures=[_picture(one) for one in shown],
        facts=[(name.replace("_", " "), _text(value)) for name, value in facts.items()],
    )
    write_text(page, html)


def _key(key: Key) -> dict[str, Any]:
    """A bar of colours for maps of one value a patch."""
    ends = [f"{end:.2f}".replace("-", "−") for end in key.colours] if key.colours.ndim == 1 else []
    return {"title": key.title, "note": key.note, "ends": ends}


def _picture(one: Shown) -> dict[str, Any]:
    width, height = one.picture.size
    narrowest = round(max(math.sqrt(AREA * width / height), NARROWEST))
    count = len(one.panels) + 1
    rows = math.ceil(count / max(1, (WIDTH + GAP) // (narrowest + GAP)))
    return {
        "name": one.name,
        "about": f"{width} × {height} pixels, {one.grid[0]} × {one.grid[1]} patches (rows × columns)",
        "width": width,
        "height": height,
        "narrowest": narrowest,
        "columns": math.ceil(count / rows),
        "widest": round(TALLEST * width / height),
        "source": _data_uri(one.picture.resize(canvas_size(one.picture.size), Image.Resampling.LANCZOS)),
        "panels": [
            {"title": panel.title, "source": _data_uri(panel.coloured), "mark": panel.mark} for panel in one.panels
        ],
    }


def _data_uri(image: Image.Image) -> str:
    jpeg = encoded(image, "JPEG", quality=QUALITY, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(inner)}" for name, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)
