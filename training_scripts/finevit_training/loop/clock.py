"""The training's clock: how far it is by steps and by wall-clock, over resumes, and what follows from it."""

import time
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from finevit_training.loop.stops import highest_of_all_ranks

SCHEDULE_STEPS = 10_000  # resolution of a schedule that follows the clock


class Progress:
    """How far the training is: the larger share of the steps and of the wall-clock budget that is used up.

    `elapsed` (seconds) moves only when `tick` is called, once a step, so that everything inside one step sees the same
    number.
    """

    def __init__(self, max_steps: int, max_seconds: float | None = None) -> None:
        self.max_steps = max_steps
        self.max_seconds = max_seconds
        self.elapsed = 0.0
        self._origin: float | None = None

    def start(self) -> None:
        """Starts the clock, or starts it again after `elapsed` was restored from a checkpoint."""
        self._origin = time.monotonic() - self.elapsed

    def tick(self) -> float:
        """Reads the clock into `elapsed` (seconds) and returns it."""
        if self._origin is not None:
            self.elapsed = time.monotonic() - self._origin
        return self.elapsed

    def fraction(self, step: int) -> float:
        """Share of the training that is over after `step` optimizer steps, between 0 and 1."""
        by_time = self.elapsed / self.max_seconds if self.max_seconds else 0.0
        return min(1.0, max(step / self.max_steps, by_time))


class ClockCallback(TrainerCallback, ExportableState):
    """Moves the clock once a step, ends the run at the budget, saves every `save_seconds`, and keeps the clock in
    checkpoints.
    """

    def __init__(self, progress: Progress, save_seconds: float | None = None) -> None:
        self.progress = progress
        self.save_seconds = save_seconds
        self.saved_at = 0.0

    def state(self) -> dict[str, Any]:
        return {"args": {}, "attributes": {"elapsed": self.progress.elapsed}}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        callbacks: Any = state.stateful_callbacks  # a dict of states once the Trainer has made the state
        saved = callbacks.get("ClockCallback", {})
        self.progress.elapsed = self.saved_at = saved.get("attributes", {}).get("elapsed", 0.0)
        self.progress.start()

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # Here and not at the step's end, because the schedule reads the clock in between.
        elapsed = self.progress.tick()
        if self.progress.max_seconds is not None or self.save_seconds is not None:
            # All ranks must agree on the steps that save and that end the run.
            (self.progress.elapsed,) = highest_of_all_ranks([elapsed], args.device)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        elapsed, max_seconds = self.progress.elapsed, self.progress.max_seconds
        if self.save_seconds is not None and elapsed - self.saved_at >= self.save_seconds:
            control.should_save = True
        if max_seconds is not None and elapsed >= max_seconds:
            control.should_training_stop = True
            # As transformers does at max_steps.
            control.should_evaluate = args.eval_strategy == "steps"
            control.should_save |= args.save_strategy == "steps"
        if control.should_training_stop or state.global_step >= state.max_steps:
            control.should_log = True  # the receipt's figures are those of the last line

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.saved_at = self.progress.elapsed


def rate_factor(
    base: Callable[[int], float], alone: bool, alone_steps: int, progress: Progress, by_clock: bool
) -> Callable[[int], float]:
    """The factor of a part's learning rate at a step.

    Args:
        base: the schedule: steps (of `SCHEDULE_STEPS` with `by_clock`) to a factor.
        alone: whether this part is the one that learns alone in the first `alone_steps` steps, at its full rate.
        alone_steps: where the schedule of all parts begins.
    """

    def factor(step: int) -> float:
        if step < alone_steps:
            return 1.0 if alone else 0.0
        return base(round(progress.fraction(step) * SCHEDULE_STEPS) if by_clock else step - alone_steps)

    return factor
