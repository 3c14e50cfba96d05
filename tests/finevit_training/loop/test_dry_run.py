"""The plan of a run against what is measured of it: FLOPs as torch counts them, bytes that are kept, steps."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from finevit_training.hardware import DEVICES, parse_hardware
from finevit_training.loop.dry_run import LOOKED_AT, estimate, report

TWO_SIZES = pytest.mark.parametrize(
    "size", [{"vision_config": '{"num_hidden_layers": 4}', "text_config": '{"num_hidden_layers": 3}'},
             {"vision_config": '{"num_hidden_layers": 6, "hidden_size": 192, "num_attention_heads": 3}',
              "text_config": '{"num_hidden_layers": 5, "hidden_size": 192}'}],
    ids=["nano", "wider and deeper"],
)  # fmt: skip


@TWO_SIZES
def test_the_flops_of_a_sample_are_those_that_torch_counts(trainer_for, size):
    """Less what is spent on padding and on the half of the causal scores that eager attention computes in vain."""
    trainer = trainer_for(attn_implementation="eager", max_steps=LOOKED_AT, **size)
    found = estimate(trainer, 1, True)
    counted, samples, tokens, positions = 0, 0, 0, 0
    for batch in trainer.get_train_dataloader():
        with FlopCounterMode(display=False) as counter:
            trainer.stage_loss(trainer.model, batch, None).backward()
        counted += counter.get_total_flops()
        samples += len(batch["ids"])
        tokens += int(batch["lengths"].sum())
        positions += batch["input_ids"].numel()
    per_sample = counted / samples
    assert 0.8 * per_sample * tokens / positions < found.flops_per_sample < per_sample


@TWO_SIZES
@pytest.mark.parametrize("bf16", [False, True])
def test_the_bytes_that_are_kept_are_those_of_a_whole_step(trainer_for, size, bf16):
    trainer = trainer_for(bf16=bf16, max_length=512, per_device_train_batch_size=3, **size)
    planned = estimate(trainer, 1, True).activations
    weights = {p.untyped_storage().data_ptr() for p in trainer.model.parameters()}
    kept = {}

    def keep(tensor):
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    measured = []
    batches = iter(trainer.get_train_dataloader())
    for _ in range(2):
        kept.clear()
        with (
            torch.autocast("cpu", torch.bfloat16, enabled=bf16),
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        ):
            trainer.stage_loss(trainer.model, next(batches), None)
        measured.append(sum(tensor.untyped_storage().nbytes() for tensor in kept.values()))
    assert planned == pytest.approx(sum(measured) / 2, rel=0.1)


def test_parameters_and_states_are_exact_and_a_frozen_part_has_none(trainer_for):
    found = estimate(trainer_for(train_tower=False), 1, True)
    model = trainer_for().model
    tower = sum(p.numel() for p in model.model.vision_tower.parameters())
    everything = sum(p.numel() for p in model.parameters())
    assert found.parameters["tower"] == tower
    assert sum(found.parameters.values()) == everything
    assert found.trained["tower"] == 0
    assert found.weights == 4 * everything
    assert found.optimizer == 8 * (everything - tower)
    assert "(frozen)" in report(found, "8xH100")


def test_more_devices_make_fewer_steps_of_an_epoch_and_as_many_of_those_that_are_asked(trainer_for):
    epochs = trainer_for(max_steps=-1, num_train_epochs=2)
    one, four = estimate(epochs, 1, False), estimate(epochs, 4, False)
    assert one.steps == epochs.args.max_steps > 4
    assert four.steps == -(-one.steps // 4)
    assert four.samples_per_step == 4 * one.samples_per_step
    assert estimate(trainer_for(max_steps=7), 4, True).steps == 7
    assert estimate(trainer_for(max_steps=-1, max_minutes=1), 4, False).steps is None


def test_hardware_is_a_count_and_a_known_device():
    assert parse_hardware("8xh100") == (8, "H100", DEVICES["H100"])
    assert parse_hardware("MI300X")[:2] == (1, "MI300X")
    for wrong in ("0xH100", "H1000", "8x", "x", ""):
        with pytest.raises(ValueError, match="such as 8xH100"):
            parse_hardware(wrong)
