"""What every stage's Trainer shares: own batches, learning rates by part, a schedule by the clock, a watched loss."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from accelerate.utils import gather_object
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import PreTrainedModel, PrinterCallback, ProgressCallback, Trainer, TrainerCallback

from finevit_training.data.bad_records import BadRecordShare
from finevit_training.data.order import RoundKey
from finevit_training.data.reader import Reader, Skip
from finevit_training.data.written_plan import WrittenPlan
from finevit_training.loop.averaging import AverageCallback
from finevit_training.loop.clock import SCHEDULE_STEPS, ClockCallback, Progress, rate_factor
from finevit_training.loop.compiling import compile_blocks
from finevit_training.loop.keeping import KeepCallback
from finevit_training.loop.loading import loader_for
from finevit_training.loop.parts import optimizer_groups
from finevit_training.loop.position import CurveCallback, PositionCallback
from finevit_training.loop.printing import PrintCallback
from finevit_training.loop.skips import SkippedCallback, add_skip, bad_rows, skipped_of_all_ranks
from finevit_training.loop.speed import SpeedMeter, Work, WorkCounter
from finevit_training.loop.stops import LossGuard, StopCallback
from finevit_training.loop.support import sum_gradients_in_float32


class PackedTrainer(Trainer):
    """A Trainer over packed batches; a stage says what its parts, its loss and its work are.

    A stage's class has `parts`, `main_part` and `encoder`, and defines `part_rates`, `weight_of`, `stage_loss` and
    `work_counter`. It may stand in front of TRL's trainers as well.

    Args:
        model: what is trained.
        args: the run's configuration (`LoopArguments` and TrainingArguments); `max_steps` must be positive.
        reader: of the training data.
        processor: saved beside the model.
        eval_reader: of the data that `eval_strategy` measures the loss on, or None.
        fraction: how far the training is when a round of the data begins, see `PackedLoader`; None: by steps and
            clock.
        plan: of the training data, see `PackedLoader`; None: it is measured.
        max_bad_share: see `BadRecordShare`.
        options: for the Trainer.
    """

    # Part -> the modules that it is made of, see `split_parameters`.
    parts: ClassVar[Mapping[str, tuple[str, ...]]]
    # The part whose rate is the log's `learning_rate`; the others have their names behind it.
    main_part: ClassVar[str]
    # The module that is the FineViT encoder.
    encoder: ClassVar[str]

    args: Any
    model: nn.Module
    optimizer: Any
    lr_scheduler: Any
    processing_class: Any

    def __init__(
        self,
        model: PreTrainedModel,
        args: Any,
        reader: Reader,
        processor: Any,
        eval_reader: Reader | None = None,
        fraction: Callable[[RoundKey, int], float] | None = None,
        plan: WrittenPlan | None = None,
        max_bad_share: float = 1.0,
        **options: Any,
    ) -> None:
        self.progress = Progress(args.max_steps, args.max_minutes * 60 if args.max_minutes else None)
        self.stops = StopCallback(LossGuard(args.on_bad_loss, args.spike_factor, args.max_steps))
        self.eval_reader = eval_reader
        self.rates: dict[str, float] = {}
        self._counted: deque[Work] = deque()  # of the step's micro-batches
        self.skipped: dict[str, str] = {}
        rows = [part.rows for _, part in reader.parts]
        records = None if None in rows else sum(count or 0 for count in rows) // args.world_size
        self.bad_rows = BadRecordShare(max_bad_share, records)
        by_steps = fraction or (lambda key, step: self.progress.fraction(step))
        args.ignore_data_skip = True  # the loader goes on from its position
        self.loader = loader_for(args, reader, by_steps, plan=plan, on_rows=self._count_rows, steps=args.max_steps)
        if args.compiles_blocks:
            compile_blocks(model.get_submodule(self.encoder))
        evaluated: dict[str, Any] = {"eval_dataset": [None] if eval_reader else None}  # the Trainer asks for one
        super().__init__(
            model=model,
            args=args,
            data_collator=_no_collator,
            processing_class=processor,
            callbacks=self._callbacks(args),
            **(evaluated | options),
        )
        self.remove_callback(ProgressCallback)
        self.remove_callback(PrinterCallback)
        self.add_callback(PrintCallback(self.progress))
        self.add_callback(CurveCallback(self))
        self.average = AverageCallback(self.model, self.encoder, args.ema_decay) if args.ema_decay else None
        if self.average:
            self.add_callback(self.average)
        # The loss is a sum divided by the items of the whole optimizer step, so that accumulation, ranks and batch
        # shapes do not change it; the Trainer counts them only for models that say they take the count.
        self.model_accepts_loss_kwargs = True
        dtype = torch.bfloat16 if args.bf16 else torch.float32
        self.meter = SpeedMeter(self.work_counter(), self.accelerator.device, dtype)

    def _callbacks(self, args: Any) -> list[TrainerCallback]:
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
        return callbacks

    def _count_rows(self, tried: int, skipped: list[Skip]) -> None:
        for skip in skipped:
            add_skip(self.skipped, skip)
        self.bad_rows.add(tried, (skip.reason for skip in skipped if skip.is_bad))

    def part_rates(self) -> dict[str, float]:
        """The highest learning rate of each part."""
        raise NotImplementedError

    def weight_of(self, batch: dict[str, Any]) -> int:
        """How many items of a batch (as the loader gives it) the loss is the mean over."""
        raise NotImplementedError

    def stage_loss(
        self, model: nn.Module, batch: dict[str, Any], num_items: torch.Tensor | int | None
    ) -> torch.Tensor:
        """The loss of a batch (as the loader gives it, on the device): the sum over its items divided by `num_items`.

        Args:
            num_items: items of the whole optimizer step on all ranks; those of this batch if None. With it the loss is
                multiplied by the number of ranks, because the mean of their gradients is taken.
        """
        raise NotImplementedError

    def work_counter(self) -> WorkCounter:
        """Counts what a batch is made of and its arithmetic."""
        raise NotImplementedError

    def settle_what_learns(self) -> None:
        """Says by `requires_grad` what the step that comes trains, before its work is counted."""

    def models_beside(self) -> Mapping[str, nn.Module]:
        """Frozen models that see each batch too and are not part of what is trained."""
        return {}

    def share_held_at_once(self) -> float:
        """Share of a micro-batch whose activations are held at the same time."""
        return 1.0

    def create_accelerator_and_postprocess(self) -> None:
        """As in the Trainer, with exact sums under FSDP."""
        super().create_accelerator_and_postprocess()
        sum_gradients_in_float32(self.accelerator)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **options: Any) -> Any:
        """As in the Trainer; the average of the weights goes on as well."""
        if self.average and isinstance(resume_from_checkpoint, str):
            self.average.load(Path(resume_from_checkpoint))
        return super().train(resume_from_checkpoint, *args, **options)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """As in the Trainer; weights that are tied to others stand in no checkpoint, and nothing is missing."""
        tied = getattr(self.model, "all_tied_weights_keys", {})
        load_result.missing_keys[:] = [name for name in load_result.missing_keys if name not in tied]
        super()._issue_warnings_after_load(load_result)

    def get_train_dataloader(self) -> Any:
        """The batches of the whole run; a resumed run begins at its position and skips nothing."""
        return self.loader

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """One parameter group for each part, with and without weight decay."""
        if self.optimizer is None:
            model = self.model if model is None else model
            optimizer_cls, kwargs = self.get_optimizer_cls_and_kwargs(self.args)
            self.optimizer = optimizer_cls(self.parameter_groups(model), **kwargs)
        return self.optimizer

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """The optimizer's groups; norms, biases and other vectors are not decayed."""
        decayed = set(self.get_decay_parameter_names(model))
        return optimizer_groups(model, self.parts, self.part_rates(), self.args.weight_decay, decayed.__contains__)

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LRScheduler:
        """transformers' schedule, by the clock where there is a wall-clock budget, and as `part_factor` bends it."""
        if self.lr_scheduler is None:
            by_clock = self.progress.max_seconds is not None
            steps = SCHEDULE_STEPS if by_clock else num_training_steps - self.steps_before_schedule()
            scheduler = super().create_scheduler(steps, optimizer)
            if not isinstance(scheduler, LambdaLR):
                if by_clock or self.bends_schedule():
                    raise ValueError(
                        f"lr_scheduler_type {self.args.lr_scheduler_type} cannot follow max_minutes, or parts that "
                        "wait for others; use cosine, cosine_with_min_lr, linear or constant_with_warmup"
                    )
                return scheduler
            groups = scheduler.optimizer.param_groups
            scheduler.lr_lambdas = [
                self.part_factor(group["name"], base, by_clock)
                for base, group in zip(scheduler.lr_lambdas, groups, strict=True)
            ]
            for group, base_rate, factor in zip(groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True):
                group["lr"] = base_rate * factor(0)
        return self.lr_scheduler

    def steps_before_schedule(self) -> int:
        """First steps, which the schedule does not count."""
        return 0

    def bends_schedule(self) -> bool:
        """Whether parts have schedules of their own."""
        return bool(self.steps_before_schedule())

    def part_factor(self, part: str, base: Callable[[int], float], by_clock: bool) -> Callable[[int], float]:
        """The factor of a part's rate at a step; `base` is transformers' schedule."""
        return rate_factor(base, False, self.steps_before_schedule(), self.progress, by_clock)

    def _get_learning_rate(self) -> float:
        """Called by the Trainer just before the schedule moves on: the main part's rate, or that of the first part
        that is trained; the log gets those of the other parts by their names.
        """
        self.rates = {group["name"]: group["lr"] for group in self.optimizer.param_groups}
        return self.rates.get(self.main_part, next(iter(self.rates.values())))

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """As in the Trainer; grids stay on the host, where the model reads them without waiting for the device."""
        on_host = {name: inputs[name] for name in ("image_grid_thw",) if name in inputs}
        return super()._prepare_inputs(inputs) | on_host

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """As in the Trainer. The micro-batches of the step are counted here, where they lie on the host: on the device
        every count would wait for all that was started before.
        """
        self.settle_what_learns()
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._counted = deque(self.meter.add(batch) for batch in batches)
        return batches, items

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Any]], device: torch.device) -> Any:
        """Items of the optimizer step on all ranks; the Trainer's own count knows labels alone."""
        if not batch_samples or "labels" in batch_samples[0]:
            return super()._get_num_items_in_batch(batch_samples, device)
        items = torch.tensor(sum(self.weight_of(batch) for batch in batch_samples), device=device)
        return self.accelerator.gather(items).sum() if self.args.world_size > 1 else items

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """`stage_loss`, measured and watched.

        A loss that is no number ends the run before the step's weights are touched, see `StopCallback`.
        """
        loss = self.stage_loss(model, inputs, num_items_in_batch)
        if self.model.training:
            self.stops.watch(loss, inputs["ids"], inputs["epochs"])
        return (loss, {}) if return_outputs else loss

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
        """Mean loss over the items of the evaluation data: `eval_loss`. Where the items of a batch do not see each
        other it depends neither on the batch size nor on the number of ranks.

        Raises:
            ValueError: there is nothing to measure it on.
        """
        self.model.eval()
        total = torch.zeros(2, dtype=torch.float64)  # loss, items
        for batch in self.get_eval_dataloader(eval_dataset):
            if items := self.weight_of(batch):
                with torch.no_grad(), self.compute_loss_context_manager():
                    loss = self.compute_loss(self.model, self._prepare_inputs(batch))
                total += torch.tensor([loss.item() * items, items], dtype=torch.float64)
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
        """Adds the other parts' rates, the speed figures and the number of bad records to every training log."""
        if "loss" in logs:
            logs |= {f"learning_rate_{part}": rate for part, rate in self.rates.items()}
            logs |= self._imbalance() | self.meter.read(self.args.world_size)
            logs["skipped_records"] = float(bad_rows(skipped_of_all_ranks(self.skipped)))
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
        flops = [work.flops for work in self.meter.work]
        work_RS = torch.tensor(gather_object([flops]), dtype=torch.float64)
        work_RS = work_RS.unflatten(1, (-1, self.args.gradient_accumulation_steps)).sum(-1)
        return {"imbalance": float((work_RS.amax(0) / work_RS.mean(0)).mean()) - 1}

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Of the micro-batch that was trained on last, as the meter counts; the Trainer adds them up over ranks and
        resumes. Its own estimate knows no pictures.
        """
        return int(self._counted.popleft().flops)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Checkpoints carry no card; the finished model's is written by `finevit_training.checkpoint`."""


def _no_collator(samples: Any) -> dict[str, Any]:
    raise AssertionError("batches come from the loader")
