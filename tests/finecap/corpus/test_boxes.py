"""Boxes are proven from the pixels of the pictures, and a box that is off by a few pixels fails the same proof."""

import dataclasses
import io
import random

import numpy as np
import pytest
from PIL import Image

from finecap.corpus import levels
from finecap.corpus.charts import chart as charts
from finecap.corpus.charts.draw import draw_chart
from finecap.corpus.charts.spec import COLORS, from_table
from finecap.corpus.charts.tables import load_table
from finecap.corpus.documents import document as docs
from finecap.corpus.documents.page import Page, Style
from finecap.corpus.scenes import backgrounds, placing
from finecap.corpus.scenes import scene as scenes
from finecap.corpus.seeding import rng_for


def pixels_of(record):
    return np.asarray(Image.open(io.BytesIO(record["image"]["bytes"])).convert("RGB")).astype(int)


def is_tight(mask, box, slack=0):
    """Whether the mask comes within `slack` pixels of every side of the box, and goes no further than `slack` beyond
    it.
    """
    x1, y1, x2, y2 = (int(value) for value in box)
    inside = mask[max(y1, 0) : y2, max(x1, 0) : x2]
    if not inside.any():
        return False
    near = 1 + slack
    sides = (inside[:near].any(), inside[-near:].any(), inside[:, :near].any(), inside[:, -near:].any())
    allowed = mask[max(y1 - slack, 0) : y2 + slack, max(x1 - slack, 0) : x2 + slack].sum()
    around = mask[max(y1 - slack - 2, 0) : y2 + slack + 2, max(x1 - slack - 2, 0) : x2 + slack + 2].sum() - allowed
    return all(sides) and around == 0


def shifted(box, dx, dy):
    return [box[0] + dx, box[1] + dy, box[2] + dx, box[3] + dy]


def regions_labelled(record, *labels):
    return [item for item in record["regions"] if item["label"] in labels]


@pytest.mark.parametrize("index", range(6))
def test_word_boxes_of_typed_forms_are_tight_around_ink(index):
    record = docs.generate(index, 0, "train", "nano")
    pixels = pixels_of(record)
    paper = np.median(pixels.reshape(-1, 3), axis=0)
    ink = np.abs(pixels - paper).max(axis=2) > 0
    words = regions_labelled(record, "word")
    assert len(words) >= 4
    for word in words:
        x1, y1, x2, y2 = (int(value) for value in word["bbox"])
        inside = ink[y1:y2, x1:x2]
        assert inside[0].any()
        assert inside[-1].any()
        assert inside[:, 0].any()
        assert inside[:, -1].any()
    covered = np.zeros_like(ink)
    for word in words:
        x1, y1, x2, y2 = (int(value) for value in word["bbox"])
        covered[y1:y2, x1:x2] = True
    assert not (ink & ~covered).any(), "ink outside every word box"


def test_the_proof_for_words_fails_for_a_shifted_box():
    record = docs.generate(0, 0, "train", "nano")
    pixels = pixels_of(record)
    ink = np.abs(pixels - np.median(pixels.reshape(-1, 3), axis=0)).max(axis=2) > 0
    word = regions_labelled(record, "word")[0]["bbox"]
    assert is_tight(ink, word)
    assert not is_tight(ink, shifted(word, 4, 0))
    assert not is_tight(ink, shifted(word, 0, 3))


@pytest.mark.parametrize("degrees", [0.0, -2.5, 1.7])
def test_words_of_a_turned_page_stay_in_their_boxes(degrees):
    page = Page((600, 300), (255, 255, 255))
    style = Style("serif", 22, (0, 0, 0), leading=2.0)
    page.paragraph("paragraph", "The quick brown fox jumps over the lazy dog again", style, 60, 60, 420, 280)
    image, regions = page.finish(degrees)
    ink = np.asarray(image.convert("L")) < (128 if degrees else 255)
    slack = 2 if degrees else 0
    words = [item["bbox"] for item in regions if item["label"] == "word"]
    assert len(words) == 10
    assert all(is_tight(ink, box, slack) for box in words)
    assert not any(is_tight(ink, shifted(box, 6, 6), slack) for box in words)


@pytest.mark.parametrize("index", range(4))
def test_nano_bars_fill_their_boxes_with_the_colour_that_their_caption_names(index):
    record = charts.generate(index, 0, "train", "nano")
    pixels = pixels_of(record)
    bars = regions_labelled(record, "bar")
    assert len(bars) >= 2
    for bar in bars:
        color = bar["caption"].split()[1]
        mask = (pixels == COLORS[color]).all(axis=2)
        x1, y1, x2, y2 = (int(value) for value in bar["bbox"])
        assert mask[y1:y2, x1:x2].all()
        assert is_tight(mask, bar["bbox"])
        assert not is_tight(mask, shifted(bar["bbox"], 2, 0))


@pytest.fixture(scope="module")
def whole_charts():
    """Whole charts without degradation, so that colours can be compared exactly."""
    level = dataclasses.replace(levels.LEVELS["base"].chart, degradation=0.0)
    charted = dataclasses.replace(levels.LEVELS["base"], chart=level)
    levels.LEVELS["undegraded"] = charted
    yield [charts.generate(index, 1, "train", "undegraded") for index in range(12)]
    del levels.LEVELS["undegraded"]


def test_bars_of_whole_charts_are_found_again_by_their_colour(whole_charts):
    checked = 0
    for record in whole_charts:
        pixels = pixels_of(record)
        for bar in regions_labelled(record, "bar"):
            mask = (pixels == COLORS[bar["caption"].split()[1]]).all(axis=2)
            x1, y1, x2, y2 = (int(value) for value in bar["bbox"])
            if x2 - x1 < 4 or y2 - y1 < 6:
                continue
            inner = mask[y1 + 1 : y2 - 1, x1 + 1 : x2 - 1]
            # the axis line may lie over the foot of a bar
            assert inner.mean() > 0.95, (record["id"], bar)
            assert mask[y1:y2, x1].mean() > 0.9 or mask[y1, x1:x2].mean() > 0.9
            checked += 1
    assert checked > 20


def test_words_of_whole_charts_hold_ink_up_to_each_side(whole_charts):
    checked = 0
    for record in whole_charts:
        dark = pixels_of(record).min(axis=2) < 250
        for word in regions_labelled(record, "title", "tick", "axis_label"):
            x1, y1, x2, y2 = (int(value) for value in word["bbox"])
            inside = dark[y1:y2, x1:x2]
            assert inside[0].any()
            assert inside[-1].any()
            assert inside[:, 0].any()
            assert inside[:, -1].any()
            checked += 1
        titles = regions_labelled(record, "title")
        assert all(is_tight(dark, title["bbox"]) for title in titles)
        assert not any(is_tight(dark, shifted(title["bbox"], 3, 0)) for title in titles)
    assert checked > 60


def test_points_of_lines_have_boxes_of_a_mark_where_their_values_lie():
    """Regression: mixed colours at the rim of a mark were once taken for another point, whose box then spanned
    both.
    """
    level = dataclasses.replace(levels.LEVELS["base"].chart, types=("line",), series=(2, 3))
    checked = 0
    for seed in range(12):
        spec = from_table(random.Random(seed), level, load_table("seattle-weather"))
        drawn = draw_chart(spec, (560, 420), 14, grid=False) if spec else None
        if drawn is None:
            continue
        points = [part for part in drawn[1] if part.role == "point"]
        assert all(part.box[2] - part.box[0] <= 10 and part.box[3] - part.box[1] <= 10 for part in points)
        centers = np.array([[(part.box[0] + part.box[2]) / 2, (part.box[1] + part.box[3]) / 2] for part in points])
        values = np.array([[part.row, list(spec.series.values())[part.series][part.row]] for part in points])
        for axis in (0, 1):
            slope, start = np.polyfit(values[:, axis], centers[:, axis], 1)
            assert np.abs(slope * values[:, axis] + start - centers[:, axis]).max() < 2.5
        wrong = np.abs(np.polyval(np.polyfit(values[:, 1], centers[::-1, 1], 1), values[:, 1]) - centers[::-1, 1])
        assert wrong.max() > 2.5, "values in the wrong order must not fit"
        checked += 1
    assert checked >= 2


def test_ticks_outside_the_view_are_no_regions(whole_charts):
    for record in whole_charts:
        for tick in regions_labelled(record, "tick"):
            x1, y1, x2, y2 = tick["bbox"]
            assert 0 <= x1 < x2 <= record["width"]
            assert 0 <= y1 < y2 <= record["height"]
        texts = [tuple(item["bbox"]) for item in regions_labelled(record, "tick")]
        assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("index", range(5))
def test_visible_boxes_are_the_pixels_that_change_when_an_object_is_taken_away(index):
    """Not from the owner map: the scene is drawn with and without each object, and the difference is what is seen of
    it.
    """
    rng = rng_for("test", index, 0, "train", "base")
    level = dataclasses.replace(levels.LEVELS["base"].scene, objects=(4, 6), object_sides=(60, 140))
    size = (336, 336)
    placed = placing.measure(placing.choose(rng, level, size, scenes.drawings_of(level, "train")), size)
    background = backgrounds.crop_background(rng, "train", "brick", size, (1.0, 1.0))
    whole = np.asarray(placing.compose(background, placed)).astype(int)
    for item in placed:
        if item.visible < 0.2:
            continue
        without = np.asarray(placing.compose(background, [other for other in placed if other is not item])).astype(int)
        changed = np.abs(whole - without).max(axis=2) > 12
        rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
        seen = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        assert np.abs(seen - np.array(item.box)).max() <= 2, item
        assert np.abs(seen - np.array(shifted(item.box, 5, 0))).max() > 2


def test_the_visible_fraction_counts_hidden_pixels():
    drawing = scenes.drawings_of(levels.LEVELS["small"].scene, "train")[0]
    width, height = scenes.sprites.drawn_size(drawing.key, 80)
    spots = [placing.Spot(drawing, 80, False, 0, 0, width, height) for _ in range(2)]
    behind, front = placing.measure(spots, (100, 100))
    assert (behind.visible, front.visible) == (0.0, 1.0)
    assert behind.box == (0, 0, 0, 0)
