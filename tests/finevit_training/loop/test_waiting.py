"""Nothing in a step of stages I and II, wrapped by DDP and FSDP or not, asks the device for a number: the host never
waits for it.
"""

import pytest
import torch
from torch.utils._pytree import tree_leaves

from finevit_training.stages.contrastive.stage import build_trainer as build_contrastive
from finevit_training.stages.mim.stage import build_trainer as build_mim
from tests.support.contrastive_runs import dual_recipe
from tests.support.mim_runs import mim_recipe, save_teacher
from tests.support.waiting import Waits


def waits_of_a_step(trainer):
    """Of a training step after the batch was counted on the host, by what would lie on a device."""
    trainer.create_optimizer()
    batches, items = trainer.get_batch_samples(iter(trainer.get_train_dataloader()), 1, torch.device("cpu"))
    (batch,) = batches
    moved = [value for name, value in batch.items() if isinstance(value, torch.Tensor) and name != "image_grid_thw"]
    waits = Waits([*trainer.model.parameters(), *moved])

    def as_ddp_and_fsdp_do(model, arguments, options):
        """They move every tensor among the arguments."""
        tensors = [leaf for leaf in tree_leaves((arguments, options)) if isinstance(leaf, torch.Tensor)]
        waits.on_device.update(dict.fromkeys(tensors, True))

    hook = trainer.model.register_forward_pre_hook(as_ddp_and_fsdp_do, with_kwargs=True)
    with waits:
        trainer.training_step(trainer.model, batch, items)
    hook.remove()
    assert len(waits.on_device) > len(moved)
    return waits.seen


@pytest.mark.parametrize("flags", [{}, {"loss_on": "masked", "mask": "block"}])
def test_a_step_of_stage_one_never_waits(nano_corpus, tmp_path, flags):
    assert waits_of_a_step(build_mim(mim_recipe(data=nano_corpus, output_dir=tmp_path, max_steps=1, **flags))) == []


def test_a_step_with_a_teacher_never_waits(nano_corpus, tmp_path):
    flags = {"teacher": save_teacher(tmp_path / "teacher"), "output_dir": tmp_path / "out", "max_steps": 1}
    assert waits_of_a_step(build_mim(mim_recipe(data=nano_corpus, **flags))) == []


@pytest.mark.parametrize("flags", [{}, {"cache_pairs": 4}])
def test_a_step_of_stage_two_never_waits(nano_corpus, tmp_path, flags):
    recipe = dual_recipe(data=nano_corpus, output_dir=tmp_path, max_steps=1, **flags)
    assert waits_of_a_step(build_contrastive(recipe)) == []


def test_what_would_wait_is_seen():
    """The negative control: each of these asks for a number."""
    values = torch.arange(4.0)
    with Waits([values]) as waits:
        doubled = 2 * values
        doubled.sum().item()
        doubled[doubled > 2]
        bool((doubled > 2).any())
        torch.arange(4.0).sum().item()  # of the host: no wait
    assert len(waits.seen) == 3
