"""Whole loss curves that must agree, after TRL's `tests/invariant`, through the real command line.

The sums of a step are taken in another order, so curves agree to 1e-4 relative and not to the bit.
"""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "training_scripts"))
from cli import finish, launch, losses


@pytest.mark.slow
def test_accumulating_1x8_2x4_and_packing_give_the_same_loss_curve(nano_corpus, tmp_path):
    shapes = {
        "1x8": {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8},
        "2x4": {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
        "packed": {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "pack_samples": "true"},
    }
    curves = {}
    for name, flags in shapes.items():
        finish(launch(**flags, data=nano_corpus, max_steps=5, output_dir=tmp_path / name))
        curves[name] = losses(tmp_path / name)
    assert len(curves["1x8"]) == 5
    assert curves["2x4"] == pytest.approx(curves["1x8"], rel=1e-4)
    assert curves["packed"] == pytest.approx(curves["1x8"], rel=1e-4)
    # Negative control: the curve does move, and other data give another one.
    assert curves["1x8"][0] != pytest.approx(curves["1x8"][-1], rel=1e-2)
