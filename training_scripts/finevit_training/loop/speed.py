"""How fast the run goes, and how much arithmetic this machine can do."""

import resource
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import torch


class Work(NamedTuple):
    """What a batch is made of.

    Attributes:
        images: pictures.
        tokens: what is trained on, in the unit of the stage: tokens, or patches where there is no text.
        positions: the same with padding.
        flops: of a forward and backward pass.
    """

    images: int
    tokens: int
    positions: int
    flops: float


class WorkCounter(Protocol):
    """Counts a micro-batch as the loader gives it."""

    def __call__(self, batch: dict[str, Any]) -> Work: ...


class SpeedMeter:
    """Speed since the last reading, summed over this process's batches."""

    def __init__(self, counter: WorkCounter, device: torch.device, dtype: torch.dtype) -> None:
        self.counter = counter
        self.device = device
        self.peak_flops = matmul_flops_per_second(device, dtype)
        self.reset()

    def reset(self) -> None:
        self.started = time.perf_counter()
        self.work: list[Work] = []  # of each micro-batch
        self.timed: dict[str, list[tuple[Any, Any]]] = {}  # when it began and ended

    def add(self, batch: dict[str, Any]) -> Work:
        """Counts one micro-batch."""
        self.work.append(self.counter(batch))
        return self.work[-1]

    @contextmanager
    def timing(self, name: str) -> Generator[None]:
        """The time within it is part of the figures, as `<name>_share`. Nothing waits for the device."""
        begin = self._now()
        yield
        self.timed.setdefault(name, []).append((begin, self._now()))

    def _now(self) -> Any:
        if self.device.type == "cpu":
            return time.perf_counter()
        event = torch.Event(device=self.device, enable_timing=True)
        event.record()
        return event

    def _seconds(self, begin: Any, end: Any) -> float:
        return end - begin if self.device.type == "cpu" else begin.elapsed_time(end) / 1000

    def read(self, num_processes: int) -> dict[str, float]:
        """The figures since the last call, for the whole job if every process does as much as this one.

        Returns:
            images_per_second, tokens_per_second, mfu (share of this device's measured FLOP/s), padding_share (of the
            positions), memory_gb (see `memory_gb`), and the share of the time of each name that was timed.
        """
        if self.timed:
            synchronize(self.device)
        seconds = time.perf_counter() - self.started
        timed = {name: sum(self._seconds(*span) for span in spans) for name, spans in self.timed.items()}
        images, tokens, positions, flops = map(sum, zip(*self.work, strict=True)) if self.work else (0, 0, 0, 0.0)
        figures = {
            "images_per_second": num_processes * images / seconds,
            "tokens_per_second": num_processes * tokens / seconds,
            "mfu": flops / seconds / self.peak_flops,
            "padding_share": 1 - tokens / max(1, positions),
            "memory_gb": memory_gb(self.device),
            **{f"{name}_share": spent / seconds for name, spent in timed.items()},
        }
        self.reset()
        return figures


def memory_gb(device: torch.device) -> float:
    """Peak memory in GB: the accelerator's, or on a CPU the process's resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def matmul_flops_per_second(device: torch.device, dtype: torch.dtype, seconds: float = 0.3) -> float:
    """FLOP/s of a large matrix product on `device`, the best of as many tries as fit into `seconds`."""
    side = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    torch.mm(a, b)
    synchronize(device)
    best = float("inf")
    stop = time.perf_counter() + seconds
    while time.perf_counter() < stop:
        start = time.perf_counter()
        torch.mm(a, b)
        synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


def synchronize(device: torch.device) -> None:
    """Waits until `device` is done with all that was started on it."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
