"""The Trainer of stage II: all pairs of all ranks against each other, in memory that a chunk of them needs."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from finevit_training.loop.flops import DualWork
from finevit_training.loop.gradient_cache import Tensors, cached_backward
from finevit_training.loop.parts import split_parameters
from finevit_training.loop.trainer import PackedTrainer
from finevit_training.stages.contrastive_arguments import ContrastiveTrainingArguments
from modeling_finevit.pretraining.sigmoid_loss import sigmoid_loss

DUAL_PARTS: dict[str, tuple[str, ...]] = {
    "tower": ("vision_model",),
    "pooling": ("pooling",),
    "text": ("text_model", "text_projection"),
    "logits": ("logit_scale", "logit_bias"),
}


class ContrastiveTrainer(PackedTrainer):
    """Trains a FineViTDualModel on pairs of pictures and captions."""

    parts = DUAL_PARTS
    main_part = "tower"
    encoder = "vision_model"
    args: ContrastiveTrainingArguments

    def part_rates(self) -> dict[str, float]:
        """The encoder's rate, which is that of the others too where they have none of their own."""
        args = self.args
        own = {"tower": None, "pooling": None, "text": args.text_learning_rate, "logits": args.logit_learning_rate}
        return {part: args.learning_rate if rate is None else rate for part, rate in own.items()}

    def weight_of(self, batch: dict[str, Any]) -> int:
        """Pairs."""
        return len(batch["ids"])

    def work_counter(self) -> DualWork:
        """Of both towers and the pooling."""
        return DualWork(self.model, DUAL_PARTS)

    def stage_loss(
        self, model: nn.Module, batch: dict[str, Any], num_items: torch.Tensor | int | None
    ) -> torch.Tensor:
        """The sigmoid loss of a whole step, each picture against the captions of all ranks; in an evaluation against
        those of its batch.
        """
        embeds, others = self.encode(model, batch)
        return self.loss_of(batch["caption_ids"], embeds, others)

    def encode(self, model: nn.Module, batch: Mapping[str, Any]) -> tuple[Tensors, Tensors]:
        """The embeddings of a batch, and the scale and bias of the logits."""
        outputs = model(
            input_ids=batch["input_ids"],
            pixel_values=self.processing_class.image_processor.from_bytes(batch["pixel_values"]),
            image_grid_thw=batch["image_grid_thw"],
        )
        return (outputs.image_embeds, outputs.text_embeds), (outputs.logit_scale, outputs.logit_bias)

    def loss_of(self, caption_ids: torch.Tensor, embeds: Tensors, others: Tensors) -> torch.Tensor:
        """The loss of a step's embeddings; `encode` says what they are."""
        everyone = self.args.world_size > 1 and self.model.training
        return sigmoid_loss(
            *embeds,
            *others,
            chunk_size=self.args.loss_chunk_size,
            caption_ids=caption_ids,
            group=dist.group.WORLD if everyone else None,
        )

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """As in the Trainer, by gradient caching where the recipe asks for it. While the text tower is frozen it gets
        no gradient, so that neither the clipping nor AdamW's moments know of one.
        """
        frozen = self.progress.fraction(self.state.global_step) < self.args.text_frozen_share
        text = split_parameters(model, DUAL_PARTS)["text"].values()
        if self.args.world_size == 1:  # else DDP and FSDP have settled what has a gradient; it is dropped below
            for parameter in text:
                parameter.requires_grad_(not frozen)
        cached = self.args.cache_pairs is not None and self.args.cache_pairs < len(inputs["ids"])
        step = self._cached_step if cached else super().training_step
        loss = step(model, inputs, num_items_in_batch)
        if frozen:
            for parameter in text:
                parameter.grad = None
        return loss

    def _cached_step(self, model: nn.Module, inputs: dict[str, Any], num_items: Any) -> torch.Tensor:
        model.train()
        batch: dict[str, Any] = self._prepare_inputs(inputs)
        self.meter.add(batch)
        with self.compute_loss_context_manager():
            loss = cached_backward(
                partial(self.encode, model),
                split_pairs(batch, int(self.args.cache_pairs or 0)),
                partial(self.loss_of, batch["caption_ids"]),
                self.accelerator.backward,
                partial(self.accelerator.no_sync, model),
            )
        self.stops.watch(loss, batch["ids"], batch["epochs"])
        return loss


def split_pairs(batch: Mapping[str, Any], pairs: int) -> list[dict[str, Any]]:
    """What the model sees of a batch, in chunks of so many pairs."""
    grids = batch["image_grid_thw"].split(pairs)
    patches = [int(of_chunk) for of_chunk in torch.stack([grid.prod(-1).sum() for grid in grids]).tolist()]
    columns = (batch["input_ids"].split(pairs), batch["pixel_values"].split(patches), grids)
    return [
        {"input_ids": ids, "pixel_values": pixels, "image_grid_thw": grid}
        for ids, pixels, grid in zip(*columns, strict=True)
    ]
