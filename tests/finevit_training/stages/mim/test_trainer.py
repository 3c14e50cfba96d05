"""The loss of stage I over a whole step, what it is the mean over, and the work that is counted."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from finevit_training.loop.dry_run import estimate, report
from finevit_training.stages.mim.stage import build_trainer
from finevit_training.stages.mim.trainer import MaskedWork
from tests.support.mim_runs import losses_of, mim_recipe, save_teacher
from tests.support.training_data import ids_of


def trainer_of(corpus, out, **flags):
    return build_trainer(mim_recipe(data=corpus, output_dir=out, **{"max_steps": 4, **flags}))


def curve(*args, **flags):
    trainer = trainer_of(*args, **flags)
    trainer.train()
    return losses_of(trainer)


@pytest.mark.parametrize("loss_on", ["masked", "all"])
def test_the_shape_of_a_batch_does_not_change_the_curve(nano_corpus, tmp_path, loss_on):
    """Rows differ in their patches, so a mean of their means would be another loss."""
    common = {"loss_on": loss_on, "mask_ratio": 0.6}
    one = curve(nano_corpus, tmp_path, per_device_train_batch_size=4, **common)
    assert curve(nano_corpus, tmp_path, gradient_accumulation_steps=4, **common) == pytest.approx(one, rel=1e-5)
    assert curve(nano_corpus, tmp_path, per_device_train_batch_size=4, **common, seed=8) != pytest.approx(
        one, rel=1e-3
    )


@pytest.mark.parametrize("loss_on", ["masked", "all"])
def test_the_loss_is_that_of_the_model_called_by_hand(nano_corpus, tmp_path, loss_on):
    trainer = trainer_of(nano_corpus, tmp_path, loss_on=loss_on, max_steps=1)
    batch = next(iter(trainer.get_train_dataloader()))
    pixels = trainer.processing_class.from_bytes(batch["pixel_values"])
    with torch.no_grad():
        outputs = trainer.model(pixels, batch["image_grid_thw"], bool_masked_pos=batch["bool_masked_pos"])
    errors = (outputs.reconstruction - torch.nn.functional.layer_norm(pixels, (588,), eps=1e-6)).square()
    counted = batch["bool_masked_pos"] if loss_on == "masked" else torch.ones(len(pixels), dtype=torch.bool)
    assert trainer.weight_of(batch) == counted.sum()
    expected = errors[counted].mean().item()
    assert trainer.stage_loss(trainer.model, batch, None).item() == pytest.approx(expected, rel=1e-5)
    of_a_step = trainer.stage_loss(trainer.model, batch, 3 * counted.sum())
    assert of_a_step.item() == pytest.approx(expected / 3, rel=1e-5)


def test_an_evaluation_measures_the_same_whatever_its_batches(nano_corpus, tmp_path):
    flags = {"eval_strategy": "steps", "eval_split": "train", "eval_records": 20}
    found = [
        trainer_of(nano_corpus, tmp_path, **flags, per_device_eval_batch_size=rows, seed=seed).evaluate()["eval_loss"]
        for rows, seed in ((1, 7), (3, 7))
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_a_teacher_of_another_patch_gets_a_view_of_its_own_and_both_views_the_same_pictures(nano_corpus, tmp_path):
    trainer = trainer_of(nano_corpus, tmp_path, teacher=save_teacher(tmp_path / "teacher"))
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["teacher_pixel_values"].shape == (len(batch["pixel_values"]), 768)
    _, targets = trainer.outputs_of(trainer.model, batch)
    expected = trainer.teacher.teacher(batch["teacher_pixel_values"], batch["image_grid_thw"])
    assert torch.equal(targets, expected)
    plain = trainer_of(nano_corpus, tmp_path)
    assert ids_of([next(iter(plain.get_train_dataloader()))]) == batch["ids"]


def test_flops_are_those_that_pytorch_counts(nano_corpus, tmp_path):
    trainer = trainer_of(nano_corpus, tmp_path, attn_implementation="eager")
    batch = next(iter(trainer.get_train_dataloader()))
    with FlopCounterMode(display=False) as counter:
        trainer.stage_loss(trainer.model, batch, None).backward()
    work = MaskedWork(trainer.model)(batch)
    # PyTorch counts no gradient of the pixels, which nobody needs.
    pixels = 2 * work.tokens * trainer.model.vision_model.patch_embed.weight.numel()
    assert work.flops == pytest.approx(counter.get_total_flops() + pixels, rel=1e-6)
    assert (work.images, work.tokens, work.positions) == (len(batch["ids"]), *[len(batch["pixel_values"])] * 2)


@pytest.mark.parametrize("loss_on", ["masked", "all"])
def test_an_empty_pack_reaches_every_weight_and_moves_none(nano_corpus, tmp_path, loss_on):
    trainer = trainer_of(nano_corpus, tmp_path, loss_on=loss_on)
    batch = trainer.loader.reader.examples.collate([[], []])
    assert trainer.weight_of(batch) == 0
    trainer.stage_loss(trainer.model, batch, torch.tensor(100)).backward()
    gradients = [parameter.grad for parameter in trainer.model.parameters()]
    assert all(gradient is not None and not gradient.any() for gradient in gradients)


def test_a_plan_counts_the_teacher_that_sees_each_picture_and_the_average_that_is_kept(nano_corpus, tmp_path):
    flags = {"teacher": save_teacher(tmp_path / "teacher")}
    trainer = trainer_of(nano_corpus, tmp_path / "out", **flags, ema_decay=0.9)
    alone = estimate(trainer_of(nano_corpus, tmp_path / "out"), 1, True)
    found = estimate(trainer, 1, True)
    teacher = sum(p.numel() for p in trainer.teacher.teacher.model.parameters())
    encoder = sum(p.numel() for p in trainer.model.vision_model.parameters())
    assert (alone.beside, alone.flops_beside) == (0, 0)
    assert found.beside == 4 * teacher + 4 * encoder
    patches = found.flops_beside / (2 * teacher)
    assert 16 <= patches <= 112**2 / 14**2
    assert "the teacher: " in report(found, "8xH100")
    assert "the teacher: " not in report(alone, "8xH100")
