"""In which order records are trained on, over epochs and the run's clock.

Nothing here keeps state between batches: a sample is named by a `SampleKey`, made in the main process, and everything
that is random about it follows from (seed, epoch, index). A run that is killed and resumed, or that uses another
number of loader workers, therefore sees the same samples.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import count, islice
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import Sampler

MEGABATCH = 16  # global batches that are sorted by length together, as transformers' LengthGroupedSampler does with 50


class SampleKey(NamedTuple):
    """Names one sample: the pass over the data, the record, and how far (0 to 1) the training is."""

    epoch: int
    index: int
    fraction: float


class TrainingBatches(Sampler[list[SampleKey]]):
    """The micro-batches of a whole run, over as many epochs as it takes.

    Every epoch is a fresh permutation of the records. If `lengths` is given, each epoch's permutation is cut into
    windows of `MEGABATCH` global batches, sorted by length inside each window, and the global batches of a window are
    shuffled again. The records left over at the end of an epoch, fewer than a global batch, come first in the next.
    This reduces padding, but each batch then holds one kind of record; models trained from scratch seemed to learn
    worse, so it is off unless asked for.
    Global batches do not depend on how they are split into micro-batches, processes and accumulation steps.

    Args:
        num_records: records in the data set.
        batch_size: samples of a micro-batch on one device.
        global_batch_size: samples of an optimizer step; a multiple of batch_size.
        num_batches: micro-batches of the whole run, over all devices.
        progress: told the number of finished optimizer steps, says how far the training is.
        lengths: estimated tokens of each record, or None to leave the permutation as it is.
    """

    def __init__(
        self,
        num_records: int,
        batch_size: int,
        global_batch_size: int,
        num_batches: int,
        seed: int,
        progress: Callable[[int], float],
        lengths: Sequence[int] | None = None,
    ) -> None:
        if global_batch_size % batch_size:
            raise ValueError(f"global_batch_size {global_batch_size} is not a multiple of batch_size {batch_size}")
        if not num_records:
            raise ValueError("the training set holds no records; correct `data`, or use `finevit corpus build`")
        self.num_records = num_records
        self.batch_size = batch_size
        self.global_batch_size = global_batch_size
        self.num_batches = num_batches
        self.seed = seed
        self.progress = progress
        self.lengths: Any = None if lengths is None else np.asarray(lengths)
        self.drop_last = True  # read by accelerate: every batch is full
        self.sampler = None

    def __len__(self) -> int:
        return self.num_batches

    def stream(self) -> Iterator[tuple[int, int]]:
        """(epoch, index) of every sample, without end."""
        left_over: list[tuple[int, int]] = []
        for epoch in count():
            rng = np.random.default_rng((self.seed, epoch))
            samples = [(epoch, index) for index in rng.permutation(self.num_records).tolist()]
            if self.lengths is None:
                yield from samples
                continue
            samples = left_over + samples
            whole = len(samples) // self.global_batch_size * self.global_batch_size
            left_over = samples[whole:]
            window = self.global_batch_size * MEGABATCH
            for start in range(0, whole, window):
                yield from self._grouped(samples[start : min(start + window, whole)], rng)

    def _grouped(self, samples: list[tuple[int, int]], rng: np.random.Generator) -> Iterator[tuple[int, int]]:
        """Whole global batches of like length, in random order."""
        order = np.argsort(self.lengths[[index for _, index in samples]], kind="stable")
        size = self.global_batch_size
        for part in rng.permutation(len(samples) // size).tolist():
            yield from (samples[place] for place in order[part * size : (part + 1) * size].tolist())

    def __iter__(self) -> Iterator[list[SampleKey]]:
        stream = self.stream()
        for made in range(self.num_batches):
            fraction = self.progress(made * self.batch_size // self.global_batch_size)
            yield [SampleKey(epoch, index, fraction) for epoch, index in islice(stream, self.batch_size)]
