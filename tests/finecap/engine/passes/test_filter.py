"""The filter: real photographs pass, spoilt copies of the same photographs do not, pages are spared."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import skimage
from PIL import Image, ImageFilter

from finecap.engine.contract import Context
from finecap.engine.passes import filter, ingest
from finecap.engine.passes.filter import Options
from finecap.engine.recipe import recipe_from
from finecap.engine.reporting.filter_report import write_filter_report
from finecap.engine.running.one_shard import Run, run_shard
from finecap.engine.running.store import Store
from finecap.pictures import encoded
from finecap.shards.plan import plan_shards
from tests.support import photographs
from tests.support.hostile_pictures import grey_only

PHOTOGRAPHS = (
    "astronaut.png",
    "camera.png",
    "coffee.png",
    "grass.png",
    "hubble_deep_field.jpg",
    "motorcycle_left.png",
)


def photograph(name: str, short_side: int = 600) -> Image.Image:
    picture = photographs.photograph(name)
    scale = short_side / min(picture.size)
    return picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.LANCZOS)


def page() -> Image.Image:
    """The page of printed text that scikit-image ships, on a sheet with margins."""
    text = Image.open(Path(skimage.__file__).parent / "data" / "page.png").convert("RGB")
    text = text.point(lambda value: 255 if value > 120 else value)
    sheet = Image.new("RGB", (1800, 500), "white")
    for number in range(4):
        sheet.paste(text, (40 + 440 * number, 150))
    return sheet


def filtered(picture: Image.Image, file_format: str = "JPEG", **options: object) -> dict:
    context = Context("s", recipe_from({"ingest": {"source": "s", "license": "l"}}).settings, None, None, Path(), {})
    row = {"key": "k", "image": encoded(picture, file_format), "width": picture.width, "height": picture.height}
    return next(iter(filter.run(iter([row]), Options(**options), context)))


def kind(row: dict) -> str | None:
    return row["reject"] and row["reject"].split(":")[0]


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_a_photograph_passes_and_its_spoilt_copies_do_not(name):
    picture = photograph(name)
    good = filtered(picture)
    assert (good["reject"], good["branch"]) == (None, "photo")
    assert kind(filtered(picture.filter(ImageFilter.GaussianBlur(600 / 448 * 2.5)))) == "blurred"
    assert kind(filtered(picture.point(lambda value: value * 0.06))) == "underexposed"
    assert kind(filtered(picture.point(lambda value: 245 + value * 0.04))) == "overexposed"
    assert kind(filtered(picture.convert("L"), min_saturation=0.02)) == "colourless"
    assert filtered(picture.convert("L"))["reject"] is None
    assert kind(filtered(picture.crop((0, 0, picture.width, picture.width // 4)), min_short_side=1)) == "aspect ratio"
    small = photograph(name, 447)
    assert filtered(small)["reject"] == "too small: short side 447 < 448"


@pytest.mark.parametrize("name", ["coffee.png", "motorcycle_left.png"])
def test_measures_hardly_depend_on_the_resolution_or_on_how_a_picture_is_stored(name):
    sides = [filtered(photograph(name, side)) for side in (500, 1000, 2000)]
    stored = [filtered(photograph(name), file_format) for file_format in ("JPEG", "PNG")]
    for measure in ("luminance", "saturation", "dark", "bright"):
        for rows in (sides, stored):
            assert np.ptp([row[measure] for row in rows]) < 0.03, measure
    for rows in (sides, stored):
        sharp = [row["sharpness"] for row in rows]
        assert max(sharp) < 2 * min(sharp)  # a blur of 2 pixels divides it by fifty and more


def test_a_page_is_a_document_and_spared_what_makes_no_sense_for_pages():
    sheet = page()
    row = filtered(sheet)
    assert (row["branch"], row["reject"]) == ("document", None)
    as_photo = filtered(sheet, document_paper=1.1)
    assert (as_photo["branch"], kind(as_photo)) == ("photo", "aspect ratio")
    assert kind(filtered(sheet, min_short_side=501)) == "too small"


@pytest.mark.slow
def test_documents_and_charts_are_told_from_scenes():
    """The embedded corpus knows what it drew; the figures for 60 of each are in the log."""
    from finecap.corpus.build import generate

    def documents(kind: str, count: int) -> int:
        found = 0
        for index in range(count):
            data = generate(kind, index, 5, "train", "full")["image"]["bytes"]
            with filter.opened(data, 10**8) as image:
                found += filter.branch(filter.measures(filter.shrunk_rgb(image, 448)), Options()) == "document"
        return found

    assert documents("doc", 4) == 4
    assert documents("chart", 4) >= 3
    assert documents("scene", 4) == 0


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (2, 2), (3, 3), (5000, 2)])
def test_the_thinnest_pictures_are_measured_too(size):
    row = filtered(Image.new("RGB", size, "white"), "PNG", min_short_side=1)
    assert kind(row) in ("aspect ratio", "overexposed")
    assert all(np.isfinite(value) for value in row.values() if isinstance(value, float))


def test_the_report_shows_counts_thresholds_and_dropped_pictures(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    for name in PHOTOGRAPHS:
        photograph(name).save(source / name.replace(".", "-good."))
        photograph(name).filter(ImageFilter.GaussianBlur(6)).save(source / name.replace(".", "-blur&."))
    page().save(source / "page.png")
    (source / "broken.jpg").write_bytes(b"no picture")
    recipe = recipe_from({"ingest": {"source": "s", "license": "l"}})
    run = Run(recipe, Store(tmp_path / "out"), tuple(plan_shards(source, 5)))
    for name in ("ingest", "filter"):
        for shard in run.shards:
            run_shard(run, name, shard, {})
    outputs = {name: [run.output(name, shard.name) for shard in run.shards] for name in ("ingest", "filter")}
    out = tmp_path / "reports" / "filter.html"
    write_filter_report(outputs["ingest"], outputs["filter"], recipe.passes["filter"], out)

    text = out.read_text()
    assert "<b>14</b><span>pictures in the input" in text
    assert "<b>6</b><span>photographs kept" in text
    assert "<b>1</b><span>documents kept" in text
    assert "<b>7</b><span>dropped (50.0 %)" in text
    assert text.count("data:image/jpeg;base64,") == 6
    assert "astronaut-blur&amp;.png" in text
    assert "not a picture" in text
    first = out.read_bytes()
    write_filter_report(outputs["ingest"], outputs["filter"], recipe.passes["filter"], out)
    assert out.read_bytes() == first
    stored = [row for path in outputs["filter"] for row in pq.read_table(path).to_pylist()]
    assert all(
        row["sharpness"] is not None for row in stored if row["key"] != "broken.jpg"
    )  # also of what was dropped


def test_a_picture_that_decodes_in_grey_alone_is_rejected():
    """Ingest takes it: it decodes JPEGs in grey."""
    data = grey_only(photograph("coffee.png"))
    context = Context("s", recipe_from({"ingest": {"source": "s", "license": "l"}}).settings, None, None, Path(), {})
    options = context.settings.options["ingest"]
    taken = {"key": "k", "bytes": data, "url": None, "problem": None}
    (row,) = ingest.run(iter([taken]), options, context)
    assert row["reject"] is None
    (row,) = filter.run(iter([row]), Options(), context)
    assert row["reject"].startswith("corrupt: ")
