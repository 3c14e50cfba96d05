"""How long the steps of a training take."""

import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from transformers import TrainerCallback

from benchmarks.measuring import Seconds


class StepTimes(TrainerCallback):
    """Wall-clock and CPU time at the end of each step.

    Args:
        samples: says how many samples are trained on so far.
    """

    def __init__(self, samples: Callable[[], float] = lambda: 0) -> None:
        self.samples = samples
        self.ends: list[Seconds] = []
        self.seen: list[float] = []

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.ends.append(Seconds(time.perf_counter(), time.process_time()))
        self.seen.append(self.samples())

    def medians(self, warm_up: int) -> Seconds:
        """Of a step, but for the first ones."""
        pairs = list(pairwise(self.ends[warm_up:]))
        return Seconds(*(statistics.median(after[at] - before[at] for before, after in pairs) for at in (0, 1)))

    def rates(self, warm_up: int) -> Seconds:
        """Samples a second of either clock, without the first steps."""
        first, last = self.ends[warm_up - 1], self.ends[-1]
        samples = self.seen[-1] - self.seen[warm_up - 1]
        return Seconds(*(samples / (last[at] - first[at]) for at in (0, 1)))
