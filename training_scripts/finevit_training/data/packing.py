"""Sequence packing for training: several samples in one row, none of which sees another.

Batches follow the contract of TRL's `padding_free`: a single sequence with `position_ids` that restart with every
sample, no attention mask, and no label on the first token of a sample. transformers then keeps the samples apart
itself (`masking_utils.find_packed_sequence_indices`). `segments` say the same, and what turns about one picture see.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch

from finevit_vl.losses import IGNORE_INDEX


def pack_full(lengths: Sequence[int], max_length: int) -> list[list[int]]:
    """Share samples out over rows that are as full as they can be made, one row after the other.

    The first sample that is left begins a row; of those that follow it, a subset whose sum comes nearest to what is
    free fills it. Few rows are left half empty at the end, and samples of all sizes share a row, so that rows are
    alike in their number of patches. It is the heuristic "minimum bin slack" (Gupta and Ho, Production Planning &
    Control 10, 1999) with the sums that can be reached as the bits of a whole number.

    Args:
        lengths: tokens of each sample.
        max_length: most tokens in a row.

    Returns:
        Rows of indices into `lengths`, ascending within a row; rows ordered by their first index. Every index occurs
        exactly once, and the same input gives the same rows.

    Raises:
        ValueError: a sample is empty or longer than a row.
    """
    for index, length in enumerate(lengths):
        if not 0 < length <= max_length:
            raise ValueError(
                f"Sample {index} has {length} tokens but a row holds 1 to {max_length}: drop it, shrink its pictures, "
                "or raise max_length."
            )
    rows, left = [], list(range(len(lengths)))
    while left:
        first, *others = left
        row = [first, *_filling(others, lengths, max_length - lengths[first])]
        rows.append(row)
        taken = set(row)
        left = [index for index in others if index not in taken]
    return rows


def _filling(indices: Sequence[int], lengths: Sequence[int], free: int) -> list[int]:
    """Indices, ascending, whose lengths come nearest to `free` tokens and do not exceed them; early ones are
    preferred.
    """
    within = (1 << (free + 1)) - 1
    reached = [1]  # after so many indices: bit n is set if some of them have n tokens together
    for index in indices:
        if reached[-1] >> free:
            break
        reached.append((reached[-1] | reached[-1] << lengths[index]) & within)
    tokens, chosen = reached[-1].bit_length() - 1, []
    for place in range(len(reached) - 1, 0, -1):
        if not reached[place - 1] >> tokens & 1:
            chosen.append(indices[place - 1])
            tokens -= lengths[indices[place - 1]]
    return chosen[::-1]


class Sample(Protocol):
    """A sample that is laid out: arrays of equal length, and segments (see `Batch`) counted from its first token."""

    input_ids: np.ndarray
    labels: np.ndarray
    segments: np.ndarray

    def __len__(self) -> int: ...


def lay_out(rows: Sequence[Sequence[Sample]], capacity: int, pad_token_id: int) -> dict[str, Any]:
    """Lay packs out one after the other, each filled up to `capacity` tokens.

    Returns:
        `input_ids`, `labels`, `position_ids` of shape `(1, rows * capacity)`, int64, and `segments`, see `Batch`. The
        first token of a segment has no label: nothing before it may predict it. Padding restarts the positions too.
    """
    length = len(rows) * capacity
    input_ids = np.full(length, pad_token_id, dtype=np.int64)
    labels = np.full(length, IGNORE_INDEX, dtype=np.int64)
    position_ids = np.zeros(length, dtype=np.int64)
    segments = []
    for number, row in enumerate(rows):
        start, row_end = number * capacity, (number + 1) * capacity
        for sample in row:
            end = start + len(sample)
            input_ids[start:end] = sample.input_ids
            labels[start:end] = sample.labels
            placed = sample.segments + np.array([start, 0, start, 0], dtype=np.int32)
            labels[placed[:, 0]] = IGNORE_INDEX
            position_ids[start:end] = _positions(sample.segments)
            segments.append(placed)
            start = end
        position_ids[start:row_end] = np.arange(row_end - start)
    tensors: dict[str, Any] = {
        name: torch.from_numpy(values)[None]
        for name, values in (("input_ids", input_ids), ("labels", labels), ("position_ids", position_ids))
    }
    padding_alone = np.array([[0, 1, 0, 0]], dtype=np.int32)
    return {**tensors, "segments": np.concatenate(segments) if segments else padding_alone}


def _positions(segments: np.ndarray) -> np.ndarray:
    """The position of every token of a sample: a segment goes on after what it sees before it."""
    lengths = segments[:, 1]
    return np.arange(lengths.sum()) + np.repeat(segments[:, 3] - segments[:, 0], lengths)
