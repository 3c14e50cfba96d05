"""Drawings of stage I: a perfect prediction looks like its target, a wrong one does not."""

import numpy as np
import pytest
import torch

from finevit_training.stages.mim.drawing import CELL, GAP, GREY, TITLE, Shown, draw_features, draw_pixels
from modeling_finevit import FineViTImageProcessorPil
from modeling_finevit.image_processing_pil_finevit import scaling_of
from modeling_finevit.patches import scale_patches
from modeling_finevit.pretraining.masked import normalize_targets
from tests.finevit_training.examples.test_masking import cells

PROCESSOR = FineViTImageProcessorPil()
SCALING = scaling_of(vars(PROCESSOR))
IMAGES = [cells(8, 8, 14), cells(4, 8, 14, seed=1)]


def shown(target_norm="layer_norm", **fields):
    made = PROCESSOR.as_bytes(IMAGES)
    targets = scale_patches(made["pixel_values"], *SCALING)
    masked = torch.arange(len(targets)) % 3 == 0
    values = {"targets": targets, "prediction": normalize_targets(targets, target_norm)} | fields
    return Shown(made["pixel_values"], made["image_grid_thw"], masked, target_norm=target_norm, merge_size=2, **values)


def column(drawing, number, width=CELL, height=CELL):
    left, top = GAP + number * (CELL + GAP), TITLE + GAP
    return np.asarray(drawing.crop((left, top, left + width, top + height)), dtype=float)


@pytest.mark.parametrize("target_norm", ["none", "layer_norm", "l2"])
def test_pixels_that_are_predicted_well_look_like_the_picture(target_norm):
    drawing = draw_pixels(shown(target_norm), SCALING)
    expected = np.asarray(IMAGES[0].resize((CELL, CELL), 3), dtype=float)
    for number in (0, 2, 3):
        assert np.abs(column(drawing, number) - expected).max() <= 2
    wrong = shown(target_norm, prediction=shown(target_norm).prediction.roll(1, 0))
    assert np.abs(column(draw_pixels(wrong, SCALING), 3) - expected).max() > 50
    # What is visible is pasted over the prediction in the third column.
    assert np.median(np.abs(column(draw_pixels(wrong, SCALING), 2) - expected)) <= 2


def test_masked_patches_are_grey_where_the_merge_order_puts_them():
    seen = column(draw_pixels(shown(), SCALING), 1)
    cell = CELL // 8
    middle = seen[cell // 2 :: cell, cell // 2 :: cell]
    grey = np.abs(middle - GREY).max(-1) < 3
    # Patches 0, 3, 6, ..., 15 of merge order are these in the first two rows.
    assert list(zip(*np.nonzero(grey[:2]), strict=True)) == [(0, 0), (0, 5), (0, 6), (1, 1), (1, 2), (1, 7)]


def test_features_have_the_colours_of_the_teachers_principal_components():
    torch.manual_seed(0)
    features = torch.randn(96, 20) @ torch.randn(20, 20)
    right = draw_features(shown("none", targets=features, prediction=features))
    assert np.abs(column(right, 2) - column(right, 3)).max() == 0
    wrong = draw_features(shown("none", targets=features, prediction=features.roll(1, 0)))
    assert np.abs(column(wrong, 2) - column(wrong, 3)).mean() > 20
    l2 = draw_features(shown("l2", targets=features, prediction=3 * features))
    assert np.abs(column(l2, 2) - column(l2, 3)).max() <= 1


def test_the_table_has_a_row_for_each_picture_as_high_as_it_is():
    drawing = draw_pixels(shown(), SCALING)
    assert drawing.size == (4 * (CELL + GAP) + GAP, TITLE + GAP + CELL + GAP + CELL // 2 + GAP)
