"""The Trainer of stage I: masked pictures in, a teacher's features or the pixels out."""

from typing import Any

import torch
from torch import nn

from finevit_training.data.batch import host_grid
from finevit_training.loop.flops import TowerFlops, matrix_elements
from finevit_training.loop.speed import Work
from finevit_training.loop.trainer import PackedTrainer
from finevit_training.stages.mim.teacher_features import TeacherFeatures


class MaskedTrainer(PackedTrainer):
    """Trains a FineViTForMaskedImageModeling.

    Args:
        teacher: whose features are regressed; None for the pixels.
        options: see `PackedTrainer`.
    """

    parts = {"encoder": ("",)}  # noqa: RUF012 - the whole model: the mask token lies outside of its modules
    main_part = "encoder"
    encoder = "vision_model"

    def __init__(self, *args: Any, teacher: TeacherFeatures | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self.teacher = teacher
        if teacher:
            teacher.teacher.to(self.accelerator.device)

    def part_rates(self) -> dict[str, float]:
        """One for the whole model."""
        return {"encoder": self.args.learning_rate}

    def weight_of(self, batch: dict[str, Any]) -> int:
        """The patches whose errors count."""
        config: Any = self.model.config
        return int((batch["bool_masked_pos"] if config.loss_on == "masked" else batch["lengths"]).sum())

    def work_counter(self) -> "MaskedWork":
        """Of the student alone; the teacher's share of the time is said beside it."""
        return MaskedWork(self.model)

    def models_beside(self) -> dict[str, nn.Module]:
        """The teacher."""
        return {"teacher": self.teacher.teacher.model} if self.teacher else {}

    def stage_loss(
        self, model: nn.Module, batch: dict[str, Any], num_items: torch.Tensor | int | None
    ) -> torch.Tensor:
        """Squared error of the patches that count; of all ranks, because their gradients' mean is taken."""
        if num_items is None:
            return self.outputs_of(model, batch)[0].loss
        outputs, _ = self.outputs_of(model, batch, num_items_in_batch=torch.as_tensor(num_items).clamp(min=1))
        counts = len(batch["lengths"]) > 0  # or the picture is a blank
        return outputs.loss * self.accelerator.num_processes * counts

    def outputs_of(self, model: nn.Module, batch: dict[str, Any], **options: Any) -> tuple[Any, torch.Tensor]:
        """The model's outputs for a batch as the loader gives it, on the device, and what it regresses there,
        (patches, D) before `target_norm`.
        """
        pixel_values = targets = self.processing_class.from_bytes(batch["pixel_values"])
        if self.teacher:
            own = batch["teacher_pixel_values"]
            with self.meter.timing("teacher"):
                targets = self.teacher(batch["pixel_values"] if own is None else own, batch["image_grid_thw"])
        outputs = model(
            pixel_values=pixel_values,
            image_grid_thw=host_grid(batch),
            bool_masked_pos=batch["bool_masked_pos"],
            targets=targets,
            **options,
        )
        return outputs, targets


class MaskedWork:
    """Counts the batches of stage I: patches, and FLOPs of a forward and backward pass of encoder and head."""

    def __init__(self, model: nn.Module) -> None:
        self.flops = TowerFlops(model.config, matrix_elements(dict(model.named_parameters())))

    def __call__(self, batch: dict[str, Any]) -> Work:
        """Of a batch as the loader gives it."""
        patches = int(batch["lengths"].sum())
        return Work(len(batch["lengths"]), patches, patches, 3 * self.flops(batch["image_grid_thw"]))
