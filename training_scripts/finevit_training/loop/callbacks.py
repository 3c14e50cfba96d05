"""What happens around the training loop: the clock, the printed line, and the speed figures in it."""

import resource
import sys
import time
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from finevit_training.data.order import Progress
from finevit_training.loop.speed import FlopCounter, measure_peak_flops


class ClockCallback(TrainerCallback, ExportableState):
    """Moves the training's clock once a step, stops it at the budget, and keeps it in checkpoints."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def state(self) -> dict[str, Any]:
        return {"args": {}, "attributes": {"elapsed": self.progress.elapsed}}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        callbacks: Any = state.stateful_callbacks  # a dict of states once the Trainer has made the state
        saved = callbacks.get("ClockCallback", {})
        self.progress.elapsed = saved.get("attributes", {}).get("elapsed", 0.0)
        self.progress.start()

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # Here and not at the step's end, because the schedule reads the clock in between.
        elapsed = self.progress.tick()
        if self.progress.max_seconds is not None and torch.distributed.is_initialized():
            # All ranks must agree on the step that ends the run, so they go by rank 0's clock.
            shared = torch.tensor(elapsed, device=args.device)
            torch.distributed.broadcast(shared, src=0)
            self.progress.elapsed = shared.item()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.progress.max_seconds is not None and self.progress.elapsed >= self.progress.max_seconds:
            control.should_training_stop = True
            control.should_log = True


class SpeedMeter:
    """Images/s, tokens/s, MFU and padding share since the last reading, summed over this process's batches."""

    def __init__(self, model: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
        self.flops = FlopCounter(model)
        self.device = device
        self.peak_flops = measure_peak_flops(device, dtype)
        self.reset()

    def reset(self) -> None:
        self.started = time.perf_counter()
        self.images = self.tokens = self.positions = 0
        self.done_flops = 0.0

    def add(self, batch: dict[str, Any]) -> None:
        """Counts one micro-batch (the collator's output)."""
        self.images += len(batch["image_grid_thw"])
        self.tokens += int(batch["lengths"].sum())
        self.positions += batch["input_ids"].numel()
        self.done_flops += self.flops(batch)

    def read(self, num_processes: int) -> dict[str, float]:
        """The figures since the last call, for the whole job if every process does as much as this one."""
        seconds = time.perf_counter() - self.started
        figures = {
            "images_per_second": num_processes * self.images / seconds,
            "tokens_per_second": num_processes * self.tokens / seconds,
            "mfu": self.done_flops / seconds / self.peak_flops,
            "padding_share": 1 - self.tokens / max(1, self.positions),
            "memory_gb": memory_gb(self.device),
        }
        self.reset()
        return figures


def memory_gb(device: torch.device) -> float:
    """Peak memory in GB: the accelerator's, or on a CPU the process's resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


class PrintCallback(TrainerCallback):
    """One line every `logging_steps`."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if not state.is_world_process_zero or not logs or "loss" not in logs:
            return
        accuracy = f" acc {logs['mean_token_accuracy']:.3f}" if "mean_token_accuracy" in logs else ""
        print(
            f"step {state.global_step} ({self.progress.fraction(state.global_step):.1%}, "
            f"{self.progress.elapsed:.0f} s) loss {logs['loss']:.4f}{accuracy} lr {logs['learning_rate']:.2e} | "
            f"{logs['images_per_second']:.1f} images/s {logs['tokens_per_second']:.0f} tokens/s "
            f"MFU {logs['mfu']:.1%} padding {logs['padding_share']:.1%} memory {logs['memory_gb']:.2f} GB",
            flush=True,
        )
