"""Which records are trained on, in which order, and with which random numbers.

Nothing here keeps state between batches: a sample is named by a `SampleKey`, made in the main process, and everything
that is random about it follows from (seed, epoch, index). A run that is killed and resumed, or that uses another
number of loader workers, therefore sees the same samples.
"""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
from torch.utils.data import Dataset, Sampler

from finecap.shards.layout import needed_split_files

MEGABATCH = 16  # global batches that are sorted by length together, as transformers' LengthGroupedSampler does with 50


class SampleKey(NamedTuple):
    """Names one sample: the pass over the data, the record, and how far (0 to 1) the training is."""

    epoch: int
    index: int
    fraction: float


class Sample(NamedTuple):
    """A record together with its key."""

    key: SampleKey
    record: dict[str, Any]

    def rng(self, seed: int) -> random.Random:
        """The random numbers of this sample in this epoch, the same in every process."""
        return random.Random(f"{seed}/{self.key.epoch}/{self.key.index}")


class Progress:
    """How far the training is: the larger share of the steps and of the wall-clock budget that is used up.

    `elapsed` moves only when `tick` is called, once a step, so that everything inside one step sees the same number.
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


class RecordDataset(Dataset):
    """Map from `SampleKey` to `Sample` over FineCap records; pictures stay encoded until they are collated."""

    def __init__(self, records: datasets.Dataset) -> None:
        self.records = records.cast_column("image", datasets.Image(decode=False))

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: SampleKey) -> Sample:
        return Sample(index, self.records[index.index])


class TrainingBatches(Sampler[list[SampleKey]]):
    """The micro-batches of a whole run, over as many epochs as it takes.

    Every epoch is a fresh permutation. With `lengths`, records of like length share a batch: `MEGABATCH` global
    batches are sorted by length and their global batches shuffled. That saves padding but makes batches of one kind,
    from which a model from scratch seems to learn worse, so it is off unless asked for.
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
            raise ValueError("the training set holds no records; build it with `finevit corpus build` or mend `data`")
        self.num_records = num_records
        self.batch_size = batch_size
        self.global_batch_size = global_batch_size
        self.num_batches = num_batches
        self.seed = seed
        self.progress = progress
        self.lengths = None if lengths is None else np.asarray(lengths)
        self.drop_last = True  # read by accelerate: every batch is full
        self.sampler = None

    def __len__(self) -> int:
        return self.num_batches

    def order(self, epoch: int) -> np.ndarray:
        """The records' indices in the order of that epoch."""
        rng = np.random.default_rng((self.seed, epoch))
        indices = rng.permutation(self.num_records)
        if self.lengths is None:
            return indices
        window = self.global_batch_size * MEGABATCH
        groups = []
        for start in range(0, len(indices), window):
            chunk = indices[start : start + window]
            chunk = chunk[np.argsort(self.lengths[chunk], kind="stable")]
            parts = np.split(chunk, range(self.global_batch_size, len(chunk), self.global_batch_size))
            groups += [parts[i] for i in rng.permutation(len(parts))]
        return np.concatenate(groups)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        batch: list[SampleKey] = []
        made = 0
        epoch = 0
        while made < self.num_batches:
            for index in self.order(epoch).tolist():
                step = made * self.batch_size // self.global_batch_size
                batch.append(SampleKey(epoch, index, self.progress(step)))
                if len(batch) == self.batch_size:
                    yield batch
                    batch = []
                    made += 1
                    if made == self.num_batches:
                        return
            epoch += 1


def load_records(paths: Sequence[str], split: str) -> datasets.Dataset:
    """The records of one split of one or more corpora in the Hub's layout (`<path>/data/<split>-*.parquet`).

    Raises:
        ValueError: a path is no such folder, or holds no such split.
    """
    parts = []
    for path in paths:
        needed_split_files(Path(path), split)
        parts.append(datasets.load_dataset(str(path), split=split))
    return parts[0] if len(parts) == 1 else datasets.concatenate_datasets(parts)


def estimate_lengths(records: datasets.Dataset, pixels_per_token: int) -> list[int]:
    """A rough token count of each record, from its size and the characters of its texts, without decoding pictures."""
    columns = records.select_columns(["width", "height", "qa", "regions"])
    lengths = []
    for row in columns:
        text = sum(len(item["question"]) for item in row["qa"] or [])
        text += sum(len(region["text"] or "") for region in row["regions"] or [])
        lengths.append(row["width"] * row["height"] // pixels_per_token + text // 3)
    return lengths
