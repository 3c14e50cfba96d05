"""What ends a run before its end, or leaves a step out: a loss that is no number or leaps up, and SIGTERM.

All ranks do the same at the same step.
"""

import json
import math
import signal
import statistics
import threading
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate.utils import gather_object
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

BAD_LOSS_FILE = "bad_losses.jsonl"
REMEMBERED = 50  # steps whose median a loss is compared with; before there are so many, none is a spike
MOST_IN_A_ROW = 10  # steps that are left out before the run ends: weights that are broken mend by no skipping


def highest_of_all_ranks(values: Sequence[float], device: torch.device) -> list[float]:
    """The largest of each of the values over all processes, the same everywhere; a collective where there are many."""
    return _of_all_ranks(values, device, torch.distributed.ReduceOp.MAX)


def sum_of_all_ranks(values: Sequence[float], device: torch.device) -> list[float]:
    """The sum of each of the values over all processes, the same everywhere; a collective where there are many."""
    return _of_all_ranks(values, device, torch.distributed.ReduceOp.SUM)


def _of_all_ranks(values: Sequence[float], device: torch.device, operation: Any) -> list[float]:
    if not torch.distributed.is_initialized():
        return list(values)
    shared = torch.tensor(values, device=device, dtype=torch.float32)
    torch.distributed.all_reduce(shared, operation)
    return shared.tolist()


_Watched = tuple[torch.Tensor, list[str], list[int]]  # a micro-batch's loss, ids and epochs


class LossGuard:
    """Says what is wrong with the loss of a step.

    Args:
        action: "stop": the first bad loss ends the run; "skip": its step changes no weight.
        spike_factor: a loss above so many times the median of the last good ones is bad; None: only one that is no
            number is.
        steps: of the whole run.

    Raises:
        ValueError: so short a run has no loss that could be compared.
    """

    def __init__(
        self, action: Literal["stop", "skip"] = "stop", spike_factor: float | None = None, steps: float = math.inf
    ) -> None:
        if spike_factor and steps <= REMEMBERED:
            raise ValueError(
                f"spike_factor would have no effect: it compares a loss with those of {REMEMBERED} steps before it, "
                f"and the run has {steps:g} steps; leave it out"
            )
        self.action = action
        self.spike_factor = spike_factor
        self.recent: deque[float] = deque(maxlen=REMEMBERED)
        self.in_a_row = 0

    def judge(self, loss: float) -> str | None:
        """What is wrong; None for a good loss, which is remembered."""
        wrong = None
        if not math.isfinite(loss):
            wrong = f"is {loss}"
        elif self.spike_factor and len(self.recent) == REMEMBERED:
            usual = statistics.median(self.recent)
            if loss > self.spike_factor * usual:
                wrong = f"is {loss:.4g} and the median of the last {REMEMBERED} steps {usual:.4g}"
        if wrong is None:
            self.recent.append(loss)
        self.in_a_row = self.in_a_row + 1 if wrong else 0
        return wrong

    def ends_run(self) -> bool:
        """Whether the bad loss that was judged last is one too many."""
        return self.action == "stop" or self.in_a_row > MOST_IN_A_ROW


class StopCallback(TrainerCallback, ExportableState):
    """Watches the losses of a step and SIGTERM, and lets all ranks act on what any of them saw.

    A bad loss is reported after the backward pass and before the weights are touched. SIGTERM saves a checkpoint at
    the end of the step and ends the training; `stopped_by_signal` tells so. (transformers' `enable_jit_checkpoint`
    lets every rank act by its own timer, hence at different steps.)
    """

    def __init__(self, guard: LossGuard | None = None) -> None:
        self.guard = guard or LossGuard()
        self.stopped_by_signal = False
        self._signalled = False
        self._losses: list[_Watched] = []

    def state(self) -> dict[str, Any]:
        guard = self.guard
        return {"args": {}, "attributes": {"recent": list(guard.recent), "in_a_row": guard.in_a_row}}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        callbacks: Any = state.stateful_callbacks  # a dict of states once the Trainer has made the state
        saved = callbacks.get("StopCallback", {}).get("attributes", {})
        self.guard.recent.extend(saved.get("recent", ()))
        self.guard.in_a_row = saved.get("in_a_row", 0)

    def watch(self, loss: torch.Tensor, ids: list[str], epochs: list[int]) -> None:
        """Remembers a micro-batch's loss (a scalar) until the end of the step, with the records it is of."""
        self._losses.append((loss.detach(), ids, epochs))

    @contextmanager
    def listening(self) -> Generator[None]:
        """Within it SIGTERM ends the training with a checkpoint. Outside of the main thread it changes nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        former = signal.signal(signal.SIGTERM, self._on_signal)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, former)

    def _on_signal(self, *_: Any) -> None:
        self._signalled = True

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        optimizer: Any = None,
        **kwargs: Any,
    ) -> None:
        """Raises FloatingPointError on all ranks for a bad loss, or takes the step's gradients away."""
        losses, self._losses = self._losses, []
        mine = sum(torch.stack([loss for loss, _, _ in losses]).tolist()) if losses else 0.0
        total, signalled = sum_of_all_ranks([mine, float(self._signalled)], args.device)
        self.stopped_by_signal = bool(signalled)
        wrong = self.guard.judge(total / args.world_size)
        if wrong is None:
            return
        path = _report(args, state.global_step + 1, wrong, losses)
        if self.guard.ends_run():
            raise FloatingPointError(
                f"the loss of step {state.global_step + 1} {wrong}; the ids of its batches are in {path}. Look at "
                "these records; start again with a lower learning rate, or resume from the last checkpoint with a "
                "smaller --max_grad_norm (the rate and the order of the records come with the checkpoint), or with "
                "--on_bad_loss skip"
            )
        for parameter in (one for group in optimizer.param_groups for one in group["params"]):
            parameter.grad = None

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.stopped_by_signal:
            control.should_save = True
            control.should_evaluate = False
            control.should_training_stop = True
            args.load_best_model_at_end = False  # the training is not at its end


def _report(args: TrainingArguments, step: int, wrong: str, losses: Sequence[_Watched]) -> Path:
    """Adds the batches of a step with a bad loss to the run's list; a collective."""
    batches = gather_object(
        [
            {"rank": args.process_index, "loss": str(loss.item()), "ids": ids, "epochs": epochs}
            for loss, ids, epochs in losses
        ]
    )
    path = Path(str(args.output_dir)) / BAD_LOSS_FILE
    if args.process_index == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(json.dumps({"step": step, "wrong": wrong, "batches": batches}) + "\n")
        print(f"step {step}: the loss {wrong}; its batches are in {path}", flush=True)
    return path
