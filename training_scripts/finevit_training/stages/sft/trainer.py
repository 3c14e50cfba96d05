"""TRL's SFTTrainer for FineViT-VL: the loss on what the assistant says, and a projector that may learn alone first."""

from collections.abc import Callable
from typing import Any

import datasets
import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel, ProcessorMixin
from trl import SFTTrainer

from finevit_training.compat import add_metric
from finevit_training.data.batch import model_inputs
from finevit_training.data.reader import Reader
from finevit_training.loop.clock import rate_factor
from finevit_training.loop.flops import VLWork
from finevit_training.loop.parts import VL_PARTS, split_parameters
from finevit_training.loop.trainer import PackedTrainer
from finevit_training.stages.sft.arguments import FineViTSFTConfig
from finevit_vl.losses import IGNORE_INDEX, supervised_positions

# TRL looks at a data set to learn that there are pictures; batches come from the loader.
_LOOKED_AT_BY_TRL = {"images": [[]], "messages": [[]]}


class FineViTSFTTrainer(PackedTrainer, SFTTrainer):
    """Trains a FineViTVLForConditionalGeneration on conversations about pictures.

    Args:
        peft_config: LoRA's configuration, or None.
        options: see `PackedTrainer`.
    """

    parts = VL_PARTS
    main_part = "llm"
    encoder = "model.vision_tower"
    args: FineViTSFTConfig
    processing_class: ProcessorMixin

    def __init__(
        self,
        model: PreTrainedModel,
        args: FineViTSFTConfig,
        reader: Reader,
        processor: ProcessorMixin,
        eval_reader: Reader | None = None,
        peft_config: Any = None,
        **options: Any,
    ) -> None:
        looked_at = datasets.Dataset.from_dict(_LOOKED_AT_BY_TRL)
        super().__init__(
            model,
            args,
            reader,
            processor,
            eval_reader,
            train_dataset=looked_at,
            eval_dataset=looked_at if eval_reader else None,
            peft_config=peft_config,
            **options,
        )

    def part_rates(self) -> dict[str, float]:
        """The language model's rate, which is that of the others too where they have none of their own."""
        args = self.args
        own = {"tower": args.vision_learning_rate, "projector": args.projector_learning_rate, "llm": None}
        return {part: args.learning_rate if rate is None else rate for part, rate in own.items()}

    def weight_of(self, batch: dict[str, Any]) -> int:
        """Supervised tokens."""
        return int((batch["labels"][:, 1:] != IGNORE_INDEX).sum())

    def work_counter(self) -> VLWork:
        """Of the tower, the projector and the language model."""
        return VLWork(self.model)

    def steps_before_schedule(self) -> int:
        """Those in which the projector learns alone."""
        return self.args.projector_warmup_steps

    def part_factor(self, part: str, base: Callable[[int], float], by_clock: bool) -> Callable[[int], float]:
        """The projector has its full rate while it learns alone, and the others none."""
        return rate_factor(base, part == "projector", self.steps_before_schedule(), self.progress, by_clock)

    def training_step(self, model: nn.Module, *args: Any, **kwargs: Any) -> torch.Tensor:
        """As in the Trainer; while the projector learns alone the other parts get no gradient, so that neither the
        clipping nor AdamW's moments know of one. A single process does not compute it either; under DDP and FSDP,
        which settle at the start what has a gradient, it is computed and dropped.
        """
        loss = super().training_step(model, *args, **kwargs)
        if self.state.global_step < self.args.projector_warmup_steps:
            for part, parameters in split_parameters(model).items():
                for parameter in parameters.values() if part != "projector" else ():
                    parameter.grad = None
        return loss

    def settle_what_learns(self) -> None:
        """The projector alone, or everything that is trained at all."""
        if self.args.world_size > 1 or not self.args.projector_warmup_steps:
            return
        alone = self.state.global_step < self.args.projector_warmup_steps
        for group in self.optimizer.param_groups:  # holds what is trained at all
            for parameter in group["params"] if group["name"] != "projector" else ():
                parameter.requires_grad_(not alone)

    def stage_loss(
        self, model: nn.Module, batch: dict[str, Any], num_items: torch.Tensor | int | None
    ) -> torch.Tensor:
        """Cross entropy of the supervised tokens: by TRL's fused head on CUDA, elsewhere by `supervised_loss`."""
        arguments = model_inputs(batch, self.processing_class.image_processor)
        if self.accelerator.device.type == "cuda":
            return SFTTrainer.compute_loss(self, model, arguments, False, num_items)
        return self.supervised_loss(model, arguments, num_items)

    def supervised_loss(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None
    ) -> torch.Tensor:
        """The same loss with the head on supervised positions alone, which for a tiny model is a third of the work.

        A mixture-of-experts language model whose config says so adds its routers' loss, as in TRL: a mean over each
        micro-batch, averaged over those of an optimizer step.

        Args:
            inputs: what the model's forward takes, with `labels`.
            num_items_in_batch: supervised tokens of the whole optimizer step; those of this micro-batch if None.
        """
        inputs = {**inputs, "use_cache": False}
        if self.aux_loss_enabled:
            inputs["output_router_logits"] = True
        labels = inputs.pop("labels")
        keep = supervised_positions(labels)
        outputs = model(**inputs, logits_to_keep=keep)
        logits = outputs.logits
        targets = labels[:, 1:][keep[:, :-1]]
        count = targets.numel() if num_items_in_batch is None else num_items_in_batch
        loss = F.cross_entropy(logits.float(), targets, reduction="sum") / max(1, int(count))
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * (self.accelerator.num_processes // self.get_tp_size())
        if self.aux_loss_enabled:
            micro_batches = 1 if num_items_in_batch is None else self.current_gradient_accumulation_steps
            loss = loss + self.router_aux_loss_coef * outputs.aux_loss / micro_batches
            add_metric(self, "aux_loss", outputs.aux_loss.item())
        step = self.state.global_step + 1
        if step % max(1, int(self.state.logging_steps)) == 0 or step == self.state.max_steps:
            accuracy = (logits.detach().argmax(-1) == targets).float().mean().item()
            add_metric(self, "mean_token_accuracy", accuracy)
        return loss
