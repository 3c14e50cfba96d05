"""Stage II over kills and ranks: the curve of a run that nothing happened to."""

import os
import signal

import pytest

from tests.support.contrastive_runs import ENTRY, SMALLEST_DUAL
from tests.support.launching import finish, launch, losses

STEPS = 6


def start(**flags):
    return launch(entry=ENTRY, smallest=SMALLEST_DUAL, **flags)


@pytest.fixture(scope="module")
def whole(nano_corpus, tmp_path_factory):
    """Every option at once: an average, a frozen tower, two picture sizes, caching, regions."""
    out = tmp_path_factory.mktemp("whole")
    budgets = '[{"until": 0.5, "max_pixels": 6272}, {"until": 1.0, "max_pixels": 12544}]'
    flags = {"data": nano_corpus, "max_steps": STEPS, "max_pixels": budgets, "text_frozen_share": 0.4}
    flags |= {"ema_decay": 0.9, "cache_pairs": 3, "region_weight": 0.5, "max_regions": 2}
    finish(start(**flags, output_dir=out))
    return out, flags


@pytest.mark.slow
def test_a_run_that_is_killed_mid_epoch_and_resumed_has_bit_identical_losses(whole, tmp_path):
    out, flags = whole
    process = start(**flags, output_dir=tmp_path, save_strategy="steps", save_steps=1, launcher=False)
    for line in process.stdout:
        if line.startswith("step 3 "):
            os.killpg(process.pid, signal.SIGKILL)
            break
    process.wait()
    assert not (tmp_path / "config.json").exists()
    finish(start(**flags, output_dir=tmp_path, resume_from_checkpoint="last"))
    assert losses(tmp_path) == losses(out)
    for name in ("model.safetensors", "ema/model.safetensors"):
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes()


@pytest.mark.slow
def test_two_ranks_have_the_losses_of_one_with_the_same_pairs_of_a_step(whole, tmp_path):
    out, flags = whole
    finish(start(processes=2, **flags, output_dir=tmp_path, per_device_train_batch_size=4))
    assert losses(tmp_path) == pytest.approx(losses(out), rel=1e-5)
    assert len(set(losses(out))) == STEPS


@pytest.mark.slow
def test_ranks_that_contrast_their_own_pairs_alone_would_be_seen(whole, tmp_path):
    """Negative control: half of the pairs of a step have another loss."""
    out, flags = whole
    finish(start(**flags, output_dir=tmp_path, per_device_train_batch_size=4))
    assert losses(tmp_path) != pytest.approx(losses(out), rel=1e-3)
