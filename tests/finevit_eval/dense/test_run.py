"""The maps of pictures as PNG and on a page: those that the model has, and those that were asked for."""

import re

import pytest
from PIL import Image

from finevit_eval.dense.drawing import canvas_size
from finevit_eval.dense.map_choice import Asked
from finevit_eval.dense.run import draw_features
from tests.support.vl_models import noise_image

FACTS = {"model": "a <model>"}
ALL = Asked("a red square", (100, 60), (10, 10, 90, 60))


@pytest.fixture
def files(tmp_path):
    for seed, size in enumerate([(140, 84), (30, 240)]):
        noise_image(seed, *size).save(tmp_path / f"picture{seed}.png")
    return {f"picture{seed}": tmp_path / f"picture{seed}.png" for seed in range(2)}


def test_every_map_of_every_picture_is_a_png_and_on_a_page_that_needs_nothing_else(dual, files, tmp_path):
    page = draw_features(dual, files, ALL, tmp_path / "out", FACTS)
    drawings = {path.name: Image.open(path).size for path in page.parent.glob("*.png")}
    maps = ["pca", "attention", "phrase", "point", "box"]
    assert set(drawings) == {f"{name}.{one}.png" for name in files for one in maps}
    assert {size for name, size in drawings.items() if "picture1" in name} == {canvas_size((30, 240))}
    html = page.read_text()
    assert html.count('<img class="map"') == 10
    assert html.count("<svg") == 2  # a point and a box, in the first picture alone
    assert not re.search(r"""(src|href)=["'](?!data:)|url\((?!data:)|@import""", html)
    assert "a &lt;model&gt;" in html
    assert "“a red square”" in html


def test_a_bare_encoder_shows_its_components_alone(encoder, files, tmp_path):
    page = draw_features(encoder, files, Asked(), tmp_path / "out", FACTS)
    assert {path.name for path in page.parent.glob("*.png")} == {"picture0.pca.png", "picture1.pca.png"}


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (Asked(phrase="a cat"), "reads no text"),
        (Asked(point=(150, 10)), "the point 150,10 lies outside of the picture of 140x84 pixels"),
        (Asked(box=(9, 9, 9, 40)), "the box 9,9,9,40 must have x1 < x2"),
    ],
)
def test_what_cannot_be_shown_is_refused_before_anything_is_written(asked, reason, encoder, files, tmp_path):
    with pytest.raises(ValueError, match=reason):
        draw_features(encoder, files, asked, tmp_path / "out", FACTS)
    assert not (tmp_path / "out").exists()


def test_a_broken_picture_is_named(encoder, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"broken\.png: not a picture"):
        draw_features(encoder, {"broken": tmp_path / "broken.png"}, Asked(), tmp_path / "out", FACTS)
    with pytest.raises(ValueError, match=r"missing\.png: No such file"):
        draw_features(encoder, {"missing": tmp_path / "missing.png"}, Asked(), tmp_path / "out", FACTS)
    noise_image(0, 3000, 10).save(tmp_path / "thread.png")
    with pytest.raises(ValueError, match=r"thread\.png\) has an aspect ratio above 200"):
        draw_features(encoder, {"thread": tmp_path / "thread.png"}, Asked(), tmp_path / "out", FACTS)
