"""What ends a run before its end: a loss that is no number, and SIGTERM. All ranks stop at the same step."""

import json
import signal
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

NONFINITE_FILE = "nonfinite_batch.json"


def highest_of_all_ranks(values: Sequence[float], device: torch.device) -> list[float]:
    """The largest of each of the values over all processes, the same everywhere; a collective where there are many."""
    if not torch.distributed.is_initialized():
        return list(values)
    shared = torch.tensor(values, device=device, dtype=torch.float32)
    torch.distributed.all_reduce(shared, torch.distributed.ReduceOp.MAX)
    return shared.tolist()


class StopCallback(TrainerCallback):
    """Watches the losses of a step and SIGTERM, and lets all ranks act on what any of them saw.

    A loss that is no number is reported after the backward pass and before the weights are touched. SIGTERM saves a
    checkpoint at the end of the step and ends the training; `stopped_by_signal` tells so. (transformers'
    `enable_jit_checkpoint` lets every rank act by its own timer, hence at different steps.)
    """

    def __init__(self) -> None:
        self.stopped_by_signal = False
        self._signalled = False
        self._losses: list[tuple[torch.Tensor, list[str], list[int]]] = []

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
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Raises FloatingPointError on all ranks if a loss of this step is no number on any."""
        losses, self._losses = self._losses, []
        finite = torch.isfinite(torch.stack([loss for loss, _, _ in losses])).tolist() if losses else []
        seen = [float(not all(finite)), float(self._signalled)]
        nonfinite, signalled = highest_of_all_ranks(seen, args.device)
        if nonfinite:
            batches = [
                {"rank": args.process_index, "loss": str(loss.item()), "ids": ids, "epochs": epochs}
                for (loss, ids, epochs), good in zip(losses, finite, strict=True)
                if not good
            ]
            _stop_on_nonfinite(args, state.global_step + 1, gather_object(batches))
        self.stopped_by_signal = bool(signalled)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.stopped_by_signal:
            control.should_save = True
            control.should_evaluate = False
            control.should_training_stop = True
            args.load_best_model_at_end = False  # the training is not at its end


def _stop_on_nonfinite(args: TrainingArguments, step: int, batches: list[dict[str, Any]]) -> None:
    path = Path(str(args.output_dir)) / NONFINITE_FILE
    if args.process_index == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"step": step, "batches": batches}, indent=2))
    ranks = sorted({batch["rank"] for batch in batches})
    raise FloatingPointError(
        f"the loss of step {step} is {batches[0]['loss']} on rank {', '.join(map(str, ranks))}; the ids of the batch "
        f"are in {path}. Look at these records; start again with a lower learning rate, or resume from the last "
        "checkpoint with a smaller --max_grad_norm (the rate and the order of the records come with the checkpoint)"
    )
