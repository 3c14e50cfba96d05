"""TRL's SFTTrainer for FineViT-VL: own batches, learning rates by part, a checked loss, a schedule by the clock."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PrinterCallback, ProcessorMixin, ProgressCallback
from trl import SFTTrainer

from finevit_training.data.bad_records import reason_kind
from finevit_training.data.batch import model_inputs
from finevit_training.data.order import Progress, TrainingBatches
from finevit_training.data.source import RecordDataset
from finevit_training.examples.conversation import SFTCollator
from finevit_training.loop.callbacks import ClockCallback, PrintCallback, SpeedMeter
from finevit_training.loop.speed import split_parameters
from finevit_training.recipe import FineViTSFTConfig
from finevit_vl.modeling_finevit_vl import supervised_positions

_SCHEDULE_STEPS = 10_000  # resolution of a schedule that follows the clock
NONFINITE_FILE = "nonfinite_batch.json"


class FineViTSFTTrainer(SFTTrainer):
    """Supervised fine-tuning of a FineViT-VL on FineCap records.

    Args:
        model: a FineViTVLForConditionalGeneration.
        args: the run's configuration; `max_steps` must be positive.
        collator: makes batches of records.
        records: FineCap records.
        lengths: estimated tokens of each record, to group by, or None.
        processor: saved beside the model.
        peft_config: LoRA's configuration, or None.
    """

    args: FineViTSFTConfig
    model: nn.Module
    optimizer: Any
    lr_scheduler: Any
    processing_class: ProcessorMixin
    train_dataset: datasets.Dataset

    def __init__(
        self,
        model: PreTrainedModel,
        args: FineViTSFTConfig,
        collator: SFTCollator,
        records: datasets.Dataset,
        processor: ProcessorMixin,
        lengths: list[int] | None = None,
        peft_config: Any = None,
    ) -> None:
        self.progress = Progress(args.max_steps, args.max_minutes * 60 if args.max_minutes else None)
        self.lengths = lengths
        self.skipped: Counter[str] = Counter()
        self.skipped_examples: dict[str, str] = {}
        super().__init__(
            model=model,
            args=args,
            data_collator=collator,  # ty: ignore[invalid-argument-type]  (a TypedDict is a dict)
            train_dataset=records,
            processing_class=processor,
            peft_config=peft_config,
            callbacks=[ClockCallback(self.progress)],
        )
        self.remove_callback(ProgressCallback)
        self.remove_callback(PrinterCallback)
        self.add_callback(PrintCallback(self.progress))
        # The loss is a sum divided by the supervised tokens of the whole optimizer step, so that accumulation, ranks
        # and batch shapes do not change it; the Trainer counts those tokens only for models that say they take the
        # count.
        self.model_accepts_loss_kwargs = True
        dtype = torch.bfloat16 if args.bf16 else torch.float32
        self.meter = SpeedMeter(self.model, self.accelerator.device, dtype)

    def get_train_dataloader(self) -> DataLoader:
        """The whole run as one pass over `TrainingBatches`; a resumed run skips batches without loading them."""
        args = self.args
        micro_batches = args.gradient_accumulation_steps * args.world_size
        batches = TrainingBatches(
            num_records=len(self.train_dataset),
            batch_size=args.per_device_train_batch_size,
            global_batch_size=args.per_device_train_batch_size * micro_batches,
            num_batches=args.max_steps * micro_batches,
            seed=args.seed,
            progress=self.progress.fraction,
            lengths=self.lengths,
        )
        loader = DataLoader(
            RecordDataset(self.train_dataset),
            batch_sampler=batches,
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
            pin_memory=args.dataloader_pin_memory and self.accelerator.device.type == "cuda",
        )
        return self.accelerator.prepare(loader)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """One parameter group for each part (tower, projector, LLM), with and without weight decay."""
        if self.optimizer is None:
            model = self.model if model is None else model
            optimizer_cls, kwargs = self.get_optimizer_cls_and_kwargs(self.args)
            self.optimizer = optimizer_cls(self.parameter_groups(model), **kwargs)
        return self.optimizer

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """The optimizer's groups; norms, biases and other vectors are not decayed."""
        args = self.args
        rates = {"tower": args.vision_learning_rate, "projector": args.projector_learning_rate, "llm": None}
        decayed_names = set(self.get_decay_parameter_names(model))
        groups = []
        for part, parameters in split_parameters(model).items():
            trained = {name: p for name, p in parameters.items() if p.requires_grad}
            decayed = {name for name, p in trained.items() if name in decayed_names and p.ndim > 1}
            for names, weight_decay in ((decayed, args.weight_decay), (set(trained) - decayed, 0.0)):
                if names:
                    lr = args.learning_rate if rates[part] is None else rates[part]
                    members = [p for name, p in trained.items() if name in names]
                    groups.append({"params": members, "lr": lr, "weight_decay": weight_decay, "name": part})
        return groups

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LRScheduler:
        """transformers' schedule, by the clock where there is a wall-clock budget, after the projector's warm-up."""
        if self.lr_scheduler is None:
            by_clock = self.progress.max_seconds is not None
            steps = _SCHEDULE_STEPS if by_clock else num_training_steps
            scheduler = super().create_scheduler(steps, optimizer)
            if not isinstance(scheduler, LambdaLR):
                if by_clock or self.args.projector_warmup_steps:
                    raise ValueError(
                        f"lr_scheduler_type {self.args.lr_scheduler_type} cannot follow max_minutes or "
                        "projector_warmup_steps; use cosine, cosine_with_min_lr, linear or constant_with_warmup"
                    )
                return scheduler
            parts = [group["name"] for group in scheduler.optimizer.param_groups]
            scheduler.lr_lambdas = [
                self._rate_factor(base, part, by_clock) for base, part in zip(scheduler.lr_lambdas, parts, strict=True)
            ]
            for group, base_rate, factor in zip(
                scheduler.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True
            ):
                group["lr"] = base_rate * factor(0)
        return self.lr_scheduler

    def _rate_factor(self, base: Any, part: str, by_clock: bool) -> Any:
        def factor(step: int) -> float:
            if step < self.args.projector_warmup_steps:
                return 1.0 if part == "projector" else 0.0
            return base(round(self.progress.fraction(step) * _SCHEDULE_STEPS) if by_clock else step)

        return factor

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Cross entropy of the supervised tokens: by TRL's fused head on CUDA, elsewhere by `supervised_loss`.

        Raises:
            FloatingPointError: the loss is not a finite number; the batch's ids lie in `nonfinite_batch.json`.
        """
        for record_id, reason in inputs.get("skipped", []):
            self.skipped[reason_kind(reason)] += 1
            self.skipped_examples.setdefault(record_id, reason)
        if self.model.training:
            self.meter.add(inputs)
        config: Any = self.model.config
        arguments = model_inputs(inputs, config.get_text_config()._attn_implementation, self._attention_dtype())
        # TRL counts tokens by summing the attention mask, which the additive mask of isolated turns does not allow.
        if return_outputs or (self.accelerator.device.type == "cuda" and "turn_ids" not in inputs):
            result = super().compute_loss(model, arguments, return_outputs, num_items_in_batch)
        else:
            result = self.supervised_loss(model, arguments, num_items_in_batch)
        loss = result[0] if return_outputs else result
        if not torch.isfinite(loss):
            self._stop_on_nonfinite(loss.item(), inputs["ids"], inputs["epochs"])
        return result

    def _attention_dtype(self) -> torch.dtype:
        """What the model computes attention in, under autocast or without."""
        model: Any = self.model
        return torch.bfloat16 if self.args.bf16 else torch.float16 if self.args.fp16 else model.dtype

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
            loss = loss * self.accelerator.num_processes
        if self.aux_loss_enabled:
            micro_batches = 1 if num_items_in_batch is None else self.current_gradient_accumulation_steps
            loss = loss + self.router_aux_loss_coef * outputs.aux_loss / micro_batches
            self._metrics["train" if self.model.training else "eval"]["aux_loss"].append(outputs.aux_loss.item())
        if (self.state.global_step + 1) % max(1, int(self.state.logging_steps)) == 0:
            accuracy = (logits.detach().argmax(-1) == targets).float().mean().item()
            self._metrics["train" if self.model.training else "eval"]["mean_token_accuracy"].append(accuracy)
        return loss

    def _stop_on_nonfinite(self, loss: float, ids: list[str], epochs: list[int]) -> None:
        path = Path(self.args.output_dir) / NONFINITE_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        step = self.state.global_step + 1
        report = {"step": step, "loss": str(loss), "ids": ids, "epochs": epochs, "rank": self.args.process_index}
        path.write_text(json.dumps(report, indent=2))
        raise FloatingPointError(
            f"the loss of step {step} is {loss}; the ids of the batch are in {path}. Look at these records, lower the "
            "learning rate, or resume from the last checkpoint with another --seed"
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the speed figures to every training log."""
        if "loss" in logs:
            logs |= self.meter.read(self.args.world_size)
            logs["elapsed_seconds"] = self.progress.elapsed
            logs["samples_seen"] = (
                self.state.global_step
                * self.args.train_batch_size
                * (self.args.gradient_accumulation_steps * self.args.world_size)
            )
        super().log(logs, start_time)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """The meter counts; the Trainer's own estimate knows no pictures."""
        return 0

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Checkpoints carry no card; the finished model's is written by `finevit_training.checkpoint`."""
