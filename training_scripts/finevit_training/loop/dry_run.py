"""What a run will take, before it is started: parameters, arithmetic, memory, steps, hours.

Nothing is trained and nothing is written. The data is opened and a few batches are made of it, as in the run.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import islice
from statistics import mean
from typing import Any, NamedTuple

import torch
from torch import nn

from finevit_training.hardware import ASSUMED_MFU, parse_hardware
from finevit_training.loop.loading import loader_for
from finevit_training.loop.parts import split_parameters, without_wrappers
from finevit_training.loop.trainer import PackedTrainer

LOOKED_AT = 4  # micro-batches
ADAMW_BYTES = 8  # of a trained weight: two moments in float32


class Estimate(NamedTuple):
    """What a run will take.

    Attributes:
        parameters, trained: of each part.
        samples_per_step, flops_per_sample: means over the micro-batches that were looked at.
        flops_beside: of a sample, of models that are not trained, such as a teacher; without attention's scores.
        steps: None where the clock alone ends the run.
        weights, gradients, optimizer, activations, beside: bytes on one device; activations of one micro-batch without
            activation checkpointing; beside: of a teacher and of the average of the weights.
    """

    parameters: dict[str, int]
    trained: dict[str, int]
    samples_per_step: float
    flops_per_sample: float
    flops_beside: float
    steps: int | None
    weights: int
    gradients: int
    optimizer: int
    activations: int
    beside: int

    @property
    def memory(self) -> int:
        """Bytes on one device when nothing is split over several."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.beside

    @property
    def flops(self) -> float | None:
        """Of the whole run."""
        return None if self.steps is None else self.steps * self.samples_per_step * self.flops_per_sample


def estimate(trainer: PackedTrainer, devices: int, steps_are_asked: bool) -> Estimate:
    """What the run of a trainer, which is alone here, will take on so many devices.

    Args:
        steps_are_asked: the recipe says `max_steps`; else they were counted for one device.
    """
    model = without_wrappers(trainer.model)
    parts = split_parameters(model, trainer.parts)
    trained = {part: sum(p.numel() for p in own.values() if p.requires_grad) for part, own in parts.items()}
    batches = list(islice(_loader(trainer), LOOKED_AT))
    work = [trainer.meter.counter(batch) for batch in batches]
    samples = sum(len(batch["ids"]) for batch in batches)
    args, learnt = trainer.args, sum(trained.values())
    others = trainer.models_beside().values()
    patches = sum(int(batch["image_grid_thw"].prod(-1).sum()) for batch in batches)
    return Estimate(
        parameters={part: sum(p.numel() for p in own.values()) for part, own in parts.items()},
        trained=trained,
        samples_per_step=samples / len(batches) * args.gradient_accumulation_steps * devices,
        flops_per_sample=sum(one.flops for one in work) / max(1, samples),
        flops_beside=2 * sum(map(_elements, others)) * patches / max(1, samples),
        steps=None if args.max_minutes else math.ceil(args.max_steps / (1 if steps_are_asked else devices)),
        weights=_bytes_of(model),
        gradients=4 * learnt,
        optimizer=ADAMW_BYTES * learnt,
        activations=_activations(trainer, mean(one.positions for one in work)),
        beside=sum(map(_bytes_of, others)) + (4 * _elements(trainer.average.module) if trainer.average else 0),
    )


def _bytes_of(model: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in model.parameters())


def _elements(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _loader(trainer: PackedTrainer, rows: int | None = None) -> Iterator[Any]:
    """Batches from the beginning of the data; the run's own loader stays where it is."""
    return iter(loader_for(trainer.args, trainer.loader.reader, lambda key, step: 0.0, rows=rows, accumulation=1))


def _activations(trainer: PackedTrainer, positions: float) -> int:
    """Bytes that the backward pass of a micro-batch keeps.

    One row goes through the model with each stack of layers cut down to one layer and to two: what the second adds,
    every further one adds too. Copies of weights in the dtype of autocast are there once a micro-batch; all else grows
    with the positions, of which a micro-batch has so many in the mean.
    """
    batch = next(_loader(trainer, rows=1))
    stacks = [one for one in trainer.model.modules() if isinstance(one, nn.ModuleList) and len(one) > 2]
    shortest = _kept_by(trainer, batch, stacks, None)
    total = shortest
    for stack in stacks:
        one_more = _kept_by(trainer, batch, stacks, stack)
        total = [
            sum_ + (len(stack) - 1) * (more - less) for sum_, more, less in zip(total, one_more, shortest, strict=True)
        ]
    growing, constant = total
    share = trainer.share_held_at_once() * positions / trainer.meter.counter(batch).positions
    return round(growing * share + constant)


def _kept_by(
    trainer: PackedTrainer, batch: Any, stacks: Sequence[nn.ModuleList], longer: nn.ModuleList | None
) -> list[int]:
    """Bytes kept of a batch by stacks of one layer, `longer` of two: what grows with it, and what does not."""
    skipped = [layer for stack in stacks for layer in stack[2 if stack is longer else 1 :]]
    weights = {p.untyped_storage().data_ptr() for p in trainer.model.parameters()}
    shapes = {tuple(p.shape) for p in trainer.model.parameters() if p.ndim > 1}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if (place := tensor.untyped_storage().data_ptr()) not in weights:
            kept[place] = tensor
        return tensor

    trainer.model.train()
    for layer in skipped:
        layer.forward = _pass_on
    try:
        autocast = torch.autocast(trainer.accelerator.device.type, torch.bfloat16, enabled=bool(trainer.args.bf16))
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast:
            trainer.stage_loss(trainer.model, trainer._prepare_inputs(batch), None)
    finally:
        for layer in skipped:
            del layer.forward
    sizes = [(tensor.untyped_storage().nbytes(), _is_weight(tensor, shapes)) for tensor in kept.values()]
    return [sum(size for size, is_weight in sizes if is_weight is kind) for kind in (False, True)]


def _pass_on(hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    return hidden_states


def _is_weight(tensor: torch.Tensor, shapes: set[tuple[int, ...]]) -> bool:
    return tuple(tensor.shape) in shapes or tuple(tensor.shape)[::-1] in shapes


def report(found: Estimate, hardware: str) -> str:
    """The estimate in words, for devices such as "8xH100"."""
    count, name, device = parse_hardware(hardware)
    frozen = {part: "" if learnt else " (frozen)" for part, learnt in found.trained.items()}
    parts = ", ".join(f"{part} {size:,}{frozen[part]}" for part, size in found.parameters.items())
    held = ("weights", "gradients", "optimizer", "activations", "beside")
    memory = ", ".join(f"{what} {getattr(found, what) / 1e9:.2f}" for what in held)
    lines = [
        f"parameters: {parts}; together {sum(found.parameters.values()):,}",
        f"a sample: {found.flops_per_sample / 1e12:.4g} TFLOP forward and backward (the mean of what was looked at)",
        *_beside(found),
        f"a step on {count} x {name}: {found.samples_per_step:,.0f} samples",
        f"memory of a device, nothing split or recomputed: {found.memory / 1e9:.2f} of {device.memory / 1e9:.0f} GB "
        f"({memory})",
    ]
    of_sample = found.flops_per_sample + found.flops_beside
    seconds = of_sample * found.samples_per_step / (count * ASSUMED_MFU * device.flops_per_second)
    if found.flops is None or found.steps is None:
        lines.append(
            f"the run: as many steps as its minutes allow, {found.samples_per_step / seconds:,.0f} samples a second "
            f"at an MFU of {ASSUMED_MFU:.0%}"
        )
    else:
        hours = seconds * found.steps / 3600
        lines.append(
            f"the run: {found.steps:,} steps, {found.steps * found.samples_per_step:,.0f} samples, "
            f"{found.flops:.3g} FLOP; {hours * count:,.1f} GPU-hours, {hours:,.1f} hours at an MFU of "
            f"{ASSUMED_MFU:.0%}"
        )
    return "\n".join(lines)


def _beside(found: Estimate) -> list[str]:
    if not found.flops_beside:
        return []
    share = found.flops_beside / (found.flops_beside + found.flops_per_sample)
    return [f"the teacher: {found.flops_beside / 1e12:.4g} TFLOP a sample more, {share:.0%} of all"]
