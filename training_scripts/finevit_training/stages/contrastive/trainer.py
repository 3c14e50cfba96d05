"""The Trainer of stage II: all pairs of all ranks against each other, in memory that a chunk of them needs."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from finevit_training.data.bad_records import UnusableData
from finevit_training.data.batch import host_grid
from finevit_training.loop.flops import DualWork
from finevit_training.loop.parts import split_parameters
from finevit_training.loop.trainer import PackedTrainer
from finevit_training.stages.contrastive.arguments import ContrastiveTrainingArguments
from modeling_finevit.pretraining.gradient_cache import Tensors, cached_backward
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

    def __init__(self, *args: Any, **options: Any) -> None:
        self.repeated: list[float] = []  # share of each step's captions that another of this rank's pairs has, too
        super().__init__(*args, **options)

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

    def share_held_at_once(self) -> float:
        """That of a chunk, where gradients are cached."""
        pairs = self.args.per_device_train_batch_size
        return min(1.0, (self.args.cache_pairs or pairs) / pairs)

    def stage_loss(
        self, model: nn.Module, batch: dict[str, Any], num_items: torch.Tensor | int | None
    ) -> torch.Tensor:
        """The sigmoid loss of a whole step, each picture against the captions of all ranks; in an evaluation against
        those of its batch.
        """
        return self.loss_of(batch, *self.encode(model, batch))

    def encode(self, model: nn.Module, batch: Mapping[str, Any]) -> tuple[Tensors, Tensors]:
        """The embeddings of a batch, and the scale and bias of the logits."""
        outputs = model(
            input_ids=batch["input_ids"],
            pixel_values=self.processing_class.image_processor.from_bytes(batch["pixel_values"]),
            image_grid_thw=host_grid(batch),
            regions=_inputs_of(batch["regions"]),
            return_logits=False,
        )
        embeds = [outputs.image_embeds, outputs.text_embeds]
        if batch["regions"] is not None:
            of_regions = outputs.region_embeds, outputs.region_text_embeds
            embeds += [embeds[0][:0] if one is None else one for one in of_regions]
        return embeds, (outputs.logit_scale, outputs.logit_bias)

    def loss_of(self, batch: Mapping[str, Any], embeds: Tensors, others: Tensors) -> torch.Tensor:
        """The loss of a step's embeddings; `encode` says what they are."""
        everyone = self.args.world_size > 1 and self.model.training
        options: dict[str, Any] = {
            "chunk_size": self.args.loss_chunk_size,
            "group": dist.group.WORLD if everyone else None,
        }
        loss = sigmoid_loss(*embeds[:2], *others, caption_ids=batch["caption_ids"], **options)
        if batch["regions"] is None:
            return loss
        count = torch.tensor([len(embeds[2])], device=loss.device)
        counts = (self.accelerator.gather(count) if everyone else count).tolist()  # pictures have as many as they have
        if not sum(counts):
            return loss
        captions = batch["regions"]["caption_ids"]
        of_regions = sigmoid_loss(*embeds[2:], *others, caption_ids=captions, pairs_per_rank=counts, **options)
        return loss + self.args.region_weight * of_regions

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """As in the Trainer, by gradient caching where the recipe asks for it. While the text tower is frozen it gets
        no gradient, so that neither the clipping nor AdamW's moments know of one.

        Raises:
            UnusableData: an epoch has fewer pairs than a step.
        """
        if self.state.global_step == 0:
            self._refuse_pictures_twice()
        captions = inputs["caption_ids"]
        self.repeated.append(1 - len(captions.unique()) / len(captions))
        cached = self.args.cache_pairs is not None and self.args.cache_pairs < len(inputs["ids"])
        step = self._cached_step if cached else super().training_step
        loss = step(model, inputs, num_items_in_batch)
        if self.text_is_frozen():
            for parameter in split_parameters(model, DUAL_PARTS)["text"].values():
                parameter.grad = None
        return loss

    def _refuse_pictures_twice(self) -> None:
        """A step that one epoch does not fill holds pictures twice, each a negative of its own other caption."""
        where = self.loader.position
        if where[:3] > (1, 0, 0):
            raise UnusableData(
                f"a step takes {where.packs:,} pairs, more than an epoch of the data has, so that pictures would come "
                "twice in it and count as no match for their own other captions: give more data, or a smaller "
                "per_device_train_batch_size"
            )

    def settle_what_learns(self) -> None:
        """The text tower or not. DDP and FSDP settle at the start what has a gradient; there it is dropped later."""
        if self.args.world_size == 1:
            for parameter in split_parameters(self.model, DUAL_PARTS)["text"].values():
                parameter.requires_grad_(not self.text_is_frozen())

    def text_is_frozen(self) -> bool:
        """Whether the text tower waits in this step."""
        return self.progress.fraction(self.state.global_step) < self.args.text_frozen_share

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the share of captions that came again within a step, which are no negatives there."""
        if "loss" in logs and self.repeated:
            logs["repeated_captions"] = sum(self.repeated) / len(self.repeated)
            self.repeated.clear()
        super().log(logs, start_time)

    def _cached_step(self, model: nn.Module, inputs: dict[str, Any], num_items: Any) -> torch.Tensor:
        model.train()
        batch: dict[str, Any] = self._prepare_inputs(inputs)
        with self.compute_loss_context_manager():
            loss = cached_backward(
                partial(self.encode, model),
                split_pairs(batch, int(self.args.cache_pairs or 0)),
                partial(self.loss_of, batch),
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
        {
            "input_ids": ids,
            "pixel_values": pixels,
            "image_grid_thw": grid,
            "regions": _regions_between(batch["regions"], number * pairs, number * pairs + len(grid)),
        }
        for number, (ids, pixels, grid) in enumerate(zip(*columns, strict=True))
    ]


def _regions_between(regions: Mapping[str, torch.Tensor] | None, first: int, last: int) -> dict[str, Any] | None:
    """The regions of some of the pictures."""
    if regions is None:
        return None
    inside = (regions["image_index"] >= first) & (regions["image_index"] < last)
    return {
        "boxes": regions["boxes"][inside],
        "image_index": regions["image_index"][inside] - first,
        "image_sizes": regions["image_sizes"][first:last],
        "input_ids": regions["input_ids"][inside],
    }


def _inputs_of(regions: Mapping[str, torch.Tensor] | None) -> dict[str, torch.Tensor] | None:
    """What the model takes of regions; None where there are none, which attention cannot be asked about."""
    if regions is None or not len(regions["boxes"]):
        return None
    return {name: regions[name] for name in ("boxes", "image_index", "image_sizes", "input_ids")}
