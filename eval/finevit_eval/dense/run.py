"""From pictures to drawings of their maps, and a page of all of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from finecap.files import committed
from finevit_eval.dense.drawing import canvas_size, coloured, mark, over
from finevit_eval.dense.map_choice import Asked, find_maps
from finevit_eval.dense.maps import colour_range
from finevit_eval.dense.multiples import Key, Panel, Shown, write_page
from finevit_eval.dense.patch_encoder import PatchEncoder
from finevit_eval.dense.picture_files import open_picture


def draw_features(
    encoder: PatchEncoder, files: Mapping[str, Path], asked: Asked, out: Path, model_facts: Mapping[str, Any]
) -> Path:
    """Writes `out/NAME.MAP.png` for every picture and map, and `out/features.html` with all of them.

    Args:
        files: pictures by their names; all are in memory at once.
        model_facts: of the model, for the page.

    Returns:
        The page.

    Raises:
        ValueError: a picture cannot be used, the model cannot show what is asked, or a point or box is not in the
            first picture.
    """
    pictures = [open_picture(file) for file in files.values()]
    features = [encoder.encode(encoder.prepare(picture))[0] for picture in pictures]
    maps = find_maps(encoder, features, pictures[0].size, asked)
    ranges = [colour_range(one.values) for one in maps]
    shown = []
    for at, (name, picture) in enumerate(zip(files, pictures, strict=True)):
        panels = []
        for one, colours in zip(maps, ranges, strict=True):
            panel = Panel(
                one.title, coloured(one.values[at], colours, canvas_size(picture.size)), one.mark if at == 0 else ()
            )
            _save(panel, picture, out / f"{name}.{one.name}.png")
            panels.append(panel)
        shown.append(Shown(name, picture, tuple(features[at].shape[:2]), panels))
    keys = [Key(one.title, one.note, colours) for one, colours in zip(maps, ranges, strict=True)]
    page = out / "features.html"
    write_page(page, shown, keys, {**model_facts, **encoder.facts})
    return page


def _save(panel: Panel, picture: Image.Image, target: Path) -> None:
    drawn = over(picture, panel.coloured)
    if panel.mark:
        mark(drawn, picture.size, panel.mark)
    with committed(target) as aside:
        drawn.save(aside, "PNG")
