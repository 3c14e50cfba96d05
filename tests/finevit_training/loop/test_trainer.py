"""One short run of each mode, the loss against two others' losses, and what stops a run."""

import json
from itertools import count, islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from trl import SFTTrainer

from finevit_training.data.batch import model_inputs
from finevit_training.loop import clock
from finevit_training.loop.parts import split_parameters
from finevit_training.loop.stops import BAD_LOSS_FILE
from tests.support.training_data import write_records


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def first_batch(trainer):
    return next(iter(trainer.get_train_dataloader()))


def inputs_of(trainer, batch):
    return model_inputs(batch, trainer.processing_class.image_processor)


@pytest.mark.parametrize("flags", [{}, {"isolate_turns": True}])
def test_loss_equals_transformers_and_trl_and_so_does_its_gradient(trainer_for, flags):
    trainer = trainer_for(**flags)
    batch = inputs_of(trainer, first_batch(trainer))
    tokens = (batch["labels"][:, 1:] != -100).sum()

    def loss_and_gradient(compute):
        trainer.model.zero_grad()
        loss = compute()
        loss.backward()
        return loss.detach(), [p.grad.clone() for p in trainer.model.parameters()]

    ours, our_gradients = loss_and_gradient(lambda: trainer.supervised_loss(trainer.model, dict(batch), tokens))
    theirs = loss_and_gradient(lambda: trainer.model(**batch).loss)
    trl = loss_and_gradient(lambda: SFTTrainer.compute_loss(trainer, trainer.model, dict(batch), False, tokens))
    for loss, gradients in (theirs, trl):
        torch.testing.assert_close(ours, loss, rtol=1e-5, atol=1e-6)
        for ours_p, theirs_p in zip(our_gradients, gradients, strict=True):
            torch.testing.assert_close(ours_p, theirs_p, rtol=1e-4, atol=1e-6)


def without_segments(trainer, batch):
    """What TRL's `padding_free` collator gives, see https://github.com/huggingface/trl/pull/7081."""
    return {key: value for key, value in inputs_of(trainer, batch).items() if key != "segments"}


def test_what_the_model_reads_on_the_host_is_no_tensor(trainer_for):
    """DDP and FSDP move tensors to the device, and the model would wait for each to come back."""
    trainer = trainer_for()
    inputs = inputs_of(trainer, first_batch(trainer))
    assert all(isinstance(inputs[name], np.ndarray) for name in ("image_grid_thw", "segments"))


def test_a_batch_is_what_padding_free_means_in_trl(trainer_for):
    batch = first_batch(trainer_for())
    assert "attention_mask" not in batch
    assert batch["input_ids"].shape == batch["position_ids"].shape == (1, 1024)
    *starts, end = [0, *batch["lengths"].cumsum(0).tolist()]
    assert len(starts) > 2
    assert batch["labels"][0, starts].tolist() == [-100] * len(starts)
    expected = [torch.arange(length) for length in (*batch["lengths"].tolist(), 1024 - end)]
    torch.testing.assert_close(batch["position_ids"][0], torch.cat(expected))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_without_segments_transformers_and_trl_keep_the_samples_apart_by_their_positions(trainer_for, attention):
    trainer = trainer_for(attn_implementation=attention)
    packed = first_batch(trainer)
    plain = without_segments(trainer, packed)
    tokens = (packed["labels"][:, 1:] != -100).sum()
    ours = trainer.supervised_loss(trainer.model, inputs_of(trainer, packed), tokens)
    theirs = trainer.model(**plain).loss
    trl = SFTTrainer.compute_loss(trainer, trainer.model, dict(plain), False, tokens)
    torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(trl, ours, rtol=1e-5, atol=1e-6)
    # Negative control: positions that do not restart join the samples.
    joined = plain | {"position_ids": torch.arange(1024)[None]}
    assert abs(trainer.model(**joined).loss - ours) > 1e-3


def test_trl_takes_the_segments_of_a_batch_on_the_host_and_counts_all_tokens_of_its_rows(trainer_for):
    """As on CUDA, where TRL's fused head computes the loss."""
    trainer = trainer_for(isolate_turns=True, per_device_train_batch_size=2)
    batch = first_batch(trainer)
    arguments = inputs_of(trainer, trainer._prepare_inputs(batch))
    assert isinstance(arguments["segments"], np.ndarray)
    loss = SFTTrainer.compute_loss(trainer, trainer.model, arguments, False, None)
    torch.testing.assert_close(loss, trainer.supervised_loss(trainer.model, inputs_of(trainer, batch), None))
    assert trainer._metrics["train"]["num_tokens"] == [2 * 1024]
    loss, outputs = SFTTrainer.compute_loss(trainer, trainer.model, inputs_of(trainer, batch), True, None)
    assert outputs.logits.shape[:2] == (1, 2 * 1024)


def test_trl_trains_on_a_row_without_samples(trainer_for):
    trainer = trainer_for()
    empty = trainer.loader.reader.examples.collate([[]])
    assert not empty["ids"]
    loss = SFTTrainer.compute_loss(trainer, trainer.model, inputs_of(trainer, empty), False, torch.tensor(7))
    loss.backward()
    assert loss == 0
    assert all(p.grad is None or p.grad.abs().max() == 0 for p in trainer.model.parameters())


def test_training_lowers_the_loss_and_logs_its_speed(trainer_for):
    trainer = trainer_for(max_steps=12, learning_rate=3e-3)
    trainer.train()
    curve = losses(trainer)
    assert sum(curve[-3:]) < sum(curve[:3]) - 1.5
    logged = trainer.state.log_history[0]
    for key in ("images_per_second", "tokens_per_second", "mfu", "padding_share", "memory_gb", "mean_token_accuracy"):
        assert logged[key] >= 0, key
    assert logged["mfu"] > 0
    assert logged["samples_seen"] == len(first_batch(trainer_for())["ids"])


def test_the_flops_of_all_steps_are_added_up(trainer_for):
    trainer = trainer_for(max_steps=3, logging_steps=2)
    trainer.train()
    work_of, batches = trainer.work_counter(), islice(trainer_for(max_steps=3).get_train_dataloader(), 3)
    assert trainer.state.total_flos == pytest.approx(sum(work_of(batch).flops for batch in batches))
    assert trainer.state.total_flos > 0


def test_the_last_step_is_logged_whatever_the_distance_of_two_lines(trainer_for):
    trainer = trainer_for(max_steps=3, logging_steps=2)
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["step"] for entry in logged] == [2, 3]
    assert logged[-1]["samples_seen"] == trainer.loader.position.samples > logged[0]["samples_seen"]
    assert logged[-1]["mean_token_accuracy"] >= 0


def test_each_part_has_its_learning_rate_and_vectors_do_not_decay(trainer_for):
    trainer = trainer_for(vision_learning_rate=1e-5, projector_learning_rate=2e-4, weight_decay=0.1)
    groups = trainer.create_optimizer().param_groups
    rates = {(group["name"], group["weight_decay"] > 0): group["lr"] for group in groups}
    assert rates == {
        ("tower", True): 1e-5,
        ("tower", False): 1e-5,
        ("projector", True): 2e-4,
        ("projector", False): 2e-4,
        ("llm", True): 1e-3,
        ("llm", False): 1e-3,
    }
    assert all(p.ndim > 1 for g in groups if g["weight_decay"] for p in g["params"])
    assert all(p.ndim == 1 for g in groups if not g["weight_decay"] for p in g["params"])
    assert sum(p.numel() for g in groups for p in g["params"]) == sum(p.numel() for p in trainer.model.parameters())


def changed_parts(trainer):
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    trainer.train()
    changed = set()
    for part, parameters in split_parameters(trainer.model).items():
        changed |= {part for name, p in parameters.items() if not torch.equal(p, before[name])}
    return changed


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({}, {"tower", "projector", "llm"}),
        ({"train_tower": False}, {"projector", "llm"}),
        ({"train_tower": False, "train_llm": False}, {"projector"}),
        ({"projector_warmup_steps": 9, "max_steps": 1}, {"projector"}),
        ({"lora_rank": 4}, {"projector", "llm"}),
        ({"lora_rank": 4, "lora_tower": True}, {"tower", "projector", "llm"}),
    ],
)
def test_a_mode_changes_the_parts_it_names_and_no_other(trainer_for, flags, expected):
    trainer = trainer_for(**flags)
    assert changed_parts(trainer) == expected
    if "lora_rank" in flags:
        trained = [n for n, p in trainer.model.named_parameters() if p.requires_grad]
        assert all("lora_" in n or "multi_modal_projector" in n for n in trained)


def test_activation_checkpointing_changes_no_loss(trainer_for):
    plain, recomputed = trainer_for(), trainer_for(activation_checkpointing=True)
    plain.train()
    recomputed.train()
    assert losses(plain) == pytest.approx(losses(recomputed), rel=1e-6)


def test_a_wall_clock_budget_ends_the_run_with_an_annealed_rate(trainer_for, monkeypatch):
    now = count(start=100.0, step=0.25)  # seconds; a step takes as long on a busy machine
    monkeypatch.setattr(clock, "time", SimpleNamespace(monotonic=lambda: next(now)))
    trainer = trainer_for(max_steps=-1, max_minutes=0.05, warmup_steps=0, prompt_tokens=True)
    assert trainer.args.max_steps > 10_000
    trainer.train()
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "loss" in entry]
    assert trainer.progress.elapsed == 3.0
    assert trainer.state.global_step == 12
    assert rates[0] > 0.5e-3
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.6 * rates[0]
    assert trainer.lr_scheduler.get_last_lr()[0] == pytest.approx(0, abs=1e-8)


def test_a_loss_that_is_no_number_stops_the_run_and_saves_the_batch_ids(trainer_for):
    trainer = trainer_for(max_steps=3)
    with torch.no_grad():
        trainer.model.model.multi_modal_projector.linear_2.bias[0] = float("nan")
    with pytest.raises(FloatingPointError, match=BAD_LOSS_FILE):
        trainer.train()
    report = json.loads((Path(trainer.args.output_dir) / BAD_LOSS_FILE).read_text())
    assert report["step"] == 1
    (batch,) = report["batches"]
    assert (batch["rank"], batch["loss"]) == (0, "nan")
    assert batch["ids"] == first_batch(trainer_for())["ids"]


def test_attention_eager_and_sdpa_give_the_same_losses(trainer_for):
    curves = []
    for name in ("eager", "sdpa"):
        trainer = trainer_for(attn_implementation=name, prompt_tokens=True, max_steps=3)
        assert trainer.model.config.vision_config._attn_implementation == name
        trainer.train()
        curves.append(losses(trainer))
    assert curves[0] == pytest.approx(curves[1], rel=1e-4)


def test_loader_workers_change_no_batch(trainer_for):
    alone, helped = (list(trainer_for(dataloader_num_workers=n).get_train_dataloader()) for n in (0, 2))
    assert len(alone) == 2
    for one, other in zip(alone, helped, strict=True):
        assert one["ids"] == other["ids"]
        torch.testing.assert_close(one["input_ids"], other["input_ids"], rtol=0, atol=0)


def test_a_mixture_of_experts_adds_its_routers_loss(trainer_for):
    """With the coefficient at 0 the routers are not asked; the difference is the coefficient times their loss, which
    is averaged over the micro-batches of the step.
    """
    experts = {
        "model_type": "qwen3_moe",
        "num_hidden_layers": 2,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "output_router_logits": True,
    }

    def logged(coefficient):
        config = json.dumps({**experts, "router_aux_loss_coef": coefficient})
        flags = {"max_steps": 1, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
        trainer = trainer_for(text_config=config, **flags)
        trainer.train()
        return trainer.state.log_history[0]

    with_routers, without = logged(0.5), logged(0.0)
    assert with_routers["loss"] == pytest.approx(without["loss"] + 0.5 * with_routers["aux_loss"], rel=1e-5)
    assert with_routers["aux_loss"] > 0.2
    assert "aux_loss" not in without


def test_an_evaluation_of_no_row_is_no_loss_of_zero(trainer_for, records, tmp_path):
    broken = [{**record, "image": {"bytes": b"no", "path": None}} for record in records[:8]]
    data = write_records(broken, tmp_path / "broken")
    trainer = trainer_for(data=data, eval_strategy="steps", eval_split="train")
    with pytest.raises(ValueError, match="nothing in eval_split can be measured"):
        trainer.evaluate()
