"""TRL's SFTTrainer for FineViT-VL: own batches, learning rates by part, a checked loss, a schedule by the clock."""

from collections.abc import Callable
from typing import Any

import datasets
import torch
from accelerate.utils import gather_object
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import PreTrainedModel, PrinterCallback, ProcessorMixin, ProgressCallback, TrainerCallback
from trl import SFTTrainer

from finevit_training.arguments import FineViTSFTConfig
from finevit_training.compat import add_metric
from finevit_training.data.bad_records import BadRecordShare
from finevit_training.data.batch import model_inputs
from finevit_training.data.order import RoundKey
from finevit_training.data.reader import Reader, Skip
from finevit_training.data.written_plan import WrittenPlan
from finevit_training.loop.clock import SCHEDULE_STEPS, ClockCallback, Progress, rate_factor
from finevit_training.loop.keeping import KeepCallback
from finevit_training.loop.loading import loader_for
from finevit_training.loop.parts import optimizer_groups, split_parameters
from finevit_training.loop.position import CurveCallback, PositionCallback
from finevit_training.loop.printing import PrintCallback
from finevit_training.loop.skips import SkippedCallback
from finevit_training.loop.speed import SpeedMeter
from finevit_training.loop.stops import StopCallback
from finevit_vl.losses import IGNORE_INDEX, supervised_positions

# TRL looks at a data set to learn that there are pictures; batches come from the loader.
_LOOKED_AT_BY_TRL = {"images": [[]], "messages": [[]]}


class FineViTSFTTrainer(SFTTrainer):
    """Supervised fine-tuning of a FineViT-VL.

    Args:
        model: a FineViTVLForConditionalGeneration.
        args: the run's configuration; `max_steps` must be positive.
        reader: of the training data.
        processor: saved beside the model.
        eval_reader: of the data that `eval_strategy` measures the loss on, or None.
        fraction: how far the training is when a round of the data begins, see `PackedLoader`; None: by steps and
            clock.
        plan: of the training data, see `PackedLoader`; None: it is measured.
        max_bad_share: see `BadRecordShare`.
        peft_config: LoRA's configuration, or None.
    """

    args: FineViTSFTConfig
    model: nn.Module
    optimizer: Any
    lr_scheduler: Any
    processing_class: ProcessorMixin

    def __init__(
        self,
        model: PreTrainedModel,
        args: FineViTSFTConfig,
        reader: Reader,
        processor: ProcessorMixin,
        eval_reader: Reader | None = None,
        fraction: Callable[[RoundKey, int], float] | None = None,
        plan: WrittenPlan | None = None,
        max_bad_share: float = 1.0,
        peft_config: Any = None,
    ) -> None:
        self.progress = Progress(args.max_steps, args.max_minutes * 60 if args.max_minutes else None)
        self.stops = StopCallback()
        self.eval_reader = eval_reader
        self.rates: dict[str, float] = {}
        self.skipped: dict[str, str] = {}
        rows = [part.rows for _, part in reader.parts]
        records = None if None in rows else sum(count or 0 for count in rows) // args.world_size
        self.bad_rows = BadRecordShare(max_bad_share, records)
        by_steps = fraction or (lambda key, step: self.progress.fraction(step))
        args.ignore_data_skip = True  # the loader goes on from its position
        self.loader = loader_for(args, reader, by_steps, plan=plan, on_rows=self._count_rows, steps=args.max_steps)
        save_seconds = args.save_minutes * 60 if args.save_minutes else None
        callbacks: list[TrainerCallback] = [
            ClockCallback(self.progress, save_seconds),
            self.stops,
            SkippedCallback(self.skipped),
            PositionCallback(self.loader),
        ]
        if args.save_total_limit:
            callbacks.append(KeepCallback(args.save_total_limit))
            args.save_total_limit = None  # transformers would delete folders of the user
        looked_at = datasets.Dataset.from_dict(_LOOKED_AT_BY_TRL)
        super().__init__(
            model=model,
            args=args,
            data_collator=_no_collator,
            train_dataset=looked_at,
            eval_dataset=looked_at if eval_reader else None,
            processing_class=processor,
            peft_config=peft_config,
            callbacks=callbacks,
        )
        self.remove_callback(ProgressCallback)
        self.remove_callback(PrinterCallback)
        self.add_callback(PrintCallback(self.progress))
        self.add_callback(CurveCallback(self))
        # The loss is a sum divided by the supervised tokens of the whole optimizer step, so that accumulation, ranks
        # and batch shapes do not change it; the Trainer counts those tokens only for models that say they take the
        # count.
        self.model_accepts_loss_kwargs = True
        dtype = torch.bfloat16 if args.bf16 else torch.float32
        self.meter = SpeedMeter(self.model, self.accelerator.device, dtype)

    def _count_rows(self, tried: int, skipped: list[Skip]) -> None:
        for skip in skipped:
            self.skipped.setdefault(skip.id, skip.reason)
        self.bad_rows.add(tried, (skip.reason for skip in skipped if skip.is_bad))

    def get_train_dataloader(self) -> Any:
        """The batches of the whole run; a resumed run begins at its position and skips nothing."""
        return self.loader

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
        own = {"tower": args.vision_learning_rate, "projector": args.projector_learning_rate, "llm": None}
        rates = {part: args.learning_rate if rate is None else rate for part, rate in own.items()}
        decayed = set(self.get_decay_parameter_names(model))
        return optimizer_groups(model, rates, args.weight_decay, decayed.__contains__)

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LRScheduler:
        """transformers' schedule, by the clock where there is a wall-clock budget, after the projector's warm-up."""
        if self.lr_scheduler is None:
            by_clock = self.progress.max_seconds is not None
            alone = self.args.projector_warmup_steps
            scheduler = super().create_scheduler(SCHEDULE_STEPS if by_clock else num_training_steps - alone, optimizer)
            if not isinstance(scheduler, LambdaLR):
                if by_clock or alone:
                    raise ValueError(
                        f"lr_scheduler_type {self.args.lr_scheduler_type} cannot follow max_minutes or "
                        "projector_warmup_steps; use cosine, cosine_with_min_lr, linear or constant_with_warmup"
                    )
                return scheduler
            groups = scheduler.optimizer.param_groups
            scheduler.lr_lambdas = [
                rate_factor(base, group["name"] == "projector", alone, self.progress, by_clock)
                for base, group in zip(scheduler.lr_lambdas, groups, strict=True)
            ]
            for group, base_rate, factor in zip(groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True):
                group["lr"] = base_rate * factor(0)
        return self.lr_scheduler

    def training_step(self, model: nn.Module, *args: Any, **kwargs: Any) -> torch.Tensor:
        """As in the Trainer; while the projector learns alone the other parts get no gradient, so that neither the
        clipping nor AdamW's moments know of one. A single process does not compute it either; under DDP and FSDP,
        which settle at the start what has a gradient, it is computed and dropped.
        """
        if self.args.projector_warmup_steps:
            self._let_projector_learn_alone(self.state.global_step < self.args.projector_warmup_steps)
        loss = super().training_step(model, *args, **kwargs)
        if self.state.global_step < self.args.projector_warmup_steps:
            for part, parameters in split_parameters(model).items():
                for parameter in parameters.values() if part != "projector" else ():
                    parameter.grad = None
        return loss

    def _let_projector_learn_alone(self, alone: bool) -> None:
        if self.args.world_size > 1:
            return
        for group in self.optimizer.param_groups:  # holds what is trained at all
            for parameter in group["params"] if group["name"] != "projector" else ():
                parameter.requires_grad_(not alone)

    def _get_learning_rate(self) -> float:
        """Called by the Trainer just before the schedule moves on: the language model's rate, or that of the first
        part that is trained; the log gets those of the other parts by their names.
        """
        self.rates = {group["name"]: group["lr"] for group in self.optimizer.param_groups}
        return self.rates.get("llm", next(iter(self.rates.values())))

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Cross entropy of the supervised tokens: by TRL's fused head on CUDA, elsewhere by `supervised_loss`.

        A loss that is no number ends the run before the step's weights are touched, see `StopCallback`.
        """
        if self.model.training:
            self.meter.add(inputs)
        arguments = model_inputs(inputs, self.processing_class.image_processor)
        if return_outputs or self.accelerator.device.type == "cuda":
            result = super().compute_loss(model, arguments, return_outputs, num_items_in_batch)
        else:
            result = self.supervised_loss(model, arguments, num_items_in_batch)
        loss = result[0] if return_outputs else result
        if self.model.training:
            self.stops.watch(loss, inputs["ids"], inputs["epochs"])
        return result

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

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """This rank's batches of the evaluation: every row once, with the questions of the end of the training, the
        same in every evaluation.
        """
        if self.eval_reader is None:
            raise ValueError("there is no evaluation data; set eval_strategy and eval_split")
        rows = self.args.per_device_eval_batch_size
        return loader_for(self.args, self.eval_reader, lambda key, step: 1.0, rows=rows, accumulation=1)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Mean loss over the supervised tokens of the evaluation data: `eval_loss`. It depends neither on the batch
        size nor on the number of ranks.

        Raises:
            ValueError: there is nothing to measure it on.
        """
        self.model.eval()
        total = torch.zeros(2, dtype=torch.float64)  # loss, tokens
        for batch in self.get_eval_dataloader(eval_dataset):
            loss, _, _ = self.prediction_step(self.model, batch, prediction_loss_only=True)
            tokens = int((batch["labels"][:, 1:] != IGNORE_INDEX).sum())
            if tokens:
                total += torch.tensor([loss.item() * tokens, tokens], dtype=torch.float64)
        total = self.accelerator.reduce(total.to(self.accelerator.device, torch.float32), reduction="sum")
        if not total[1]:
            raise ValueError(
                "nothing in eval_split can be measured: no row was drawn, or none can be used; give more "
                "eval_records, or look at the rows with `finevit data look`"
            )
        metrics = {f"{metric_key_prefix}_loss": (total[0] / total[1]).item()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self.meter.reset()
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the other parts' rates, the speed figures and the number of skipped records to every training log."""
        if "loss" in logs:
            logs |= {f"learning_rate_{part}": rate for part, rate in self.rates.items()}
            logs |= self._imbalance() | self.meter.read(self.args.world_size)
            skipped = torch.tensor(float(len(self.skipped)), device=self.accelerator.device)
            logs["skipped_records"] = self.accelerator.reduce(skipped, reduction="sum").item()
        if "loss" in logs or "eval_loss" in logs:
            logs["elapsed_seconds"] = self.progress.elapsed
            logs["samples_seen"] = self.loader.position.samples
            self.state.epoch = float(self.loader.position.epoch)
        super().log(logs, start_time)

    def _imbalance(self) -> dict[str, float]:
        """How much more work the busiest rank has than the mean of all, in the mean over the steps since the last log;
        nothing for a single rank.
        """
        if self.args.world_size == 1:
            return {}
        work_RS = torch.tensor(gather_object([self.meter.work]), dtype=torch.float64)
        work_RS = work_RS.unflatten(1, (-1, self.args.gradient_accumulation_steps)).sum(-1)
        return {"imbalance": float((work_RS.amax(0) / work_RS.mean(0)).mean()) - 1}

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """The meter counts; the Trainer's own estimate knows no pictures."""
        return 0

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Checkpoints carry no card; the finished model's is written by `finevit_training.checkpoint`."""


def _no_collator(samples: Any) -> dict[str, Any]:
    raise AssertionError("batches come from the loader")
