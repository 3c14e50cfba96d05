"""Sequence packing for training: several samples in one row, none of which sees another.

Rows carry `position_ids` that restart with every sample and no attention mask; transformers then builds the
block-diagonal causal mask itself (`masking_utils.find_packed_sequence_indices`). With flash attention it does so for a
single row only, see `may_pack_rows`.
"""

from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence

import torch

from finevit_vl.losses import IGNORE_INDEX
from finevit_vl.packed_attention import plain_name


def may_pack_rows(attention: str) -> bool:
    """Whether this attention implementation of a language model keeps samples apart in several packed rows at once.

    Those that get a mask do. Flash kernels get none and find the samples by their positions in a batch of one row;
    with more rows every sample would see those before it in its row.
    """
    return plain_name(attention) in ("sdpa", "eager", "flex_attention")


def pack_best_fit(lengths: Sequence[int], max_length: int) -> list[list[int]]:
    """Share samples out over rows by best fit decreasing (at most 11/9 of the fewest rows possible, plus one).

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
    rows: list[list[int]] = []
    free: list[tuple[int, int]] = []  # (free tokens, row), ascending
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        length = lengths[index]
        place = bisect_left(free, (length, -1))
        if place == len(free):
            rows.append([index])
            insort(free, (max_length - length, len(rows) - 1))
        else:
            space, row = free.pop(place)
            rows[row].append(index)
            insort(free, (space - length, row))
    return sorted((sorted(row) for row in rows), key=lambda row: row[0])


def collate_packed(rows: Sequence[Sequence[Mapping[str, torch.Tensor]]], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Lay packed rows out as one batch.

    Args:
        rows: samples of each row; a sample has `input_ids` and `labels` of shape `(length,)` and, with pictures,
            `pixel_values` `(patches, patch dim)` and `image_grid_thw` `(images, 3)`.
        pad_token_id: fills short rows. Padding restarts the positions too and has no labels.

    Returns:
        `input_ids`, `labels`, `position_ids` of shape `(rows, longest row)`, and `pixel_values`, `image_grid_thw` of
        all pictures in order. A sample's first token has no label: nothing before it may predict it.
    """
    longest = max(sum(len(sample["input_ids"]) for sample in row) for row in rows)
    input_ids = torch.full((len(rows), longest), pad_token_id)
    labels = torch.full((len(rows), longest), IGNORE_INDEX)
    position_ids = torch.zeros((len(rows), longest), dtype=torch.long)
    pictures = []
    for index, row in enumerate(rows):
        start = 0
        for sample in row:
            end = start + len(sample["input_ids"])
            input_ids[index, start:end] = sample["input_ids"]
            labels[index, start + 1 : end] = sample["labels"][1:]
            position_ids[index, start:end] = torch.arange(end - start)
            start = end
            if sample.get("pixel_values") is not None:
                pictures.append(sample)
        position_ids[index, start:] = torch.arange(longest - start)
    batch = {"input_ids": input_ids, "labels": labels, "position_ids": position_ids}
    if pictures:
        batch["pixel_values"] = torch.cat([sample["pixel_values"] for sample in pictures])
        batch["image_grid_thw"] = torch.cat([sample["image_grid_thw"] for sample in pictures])
    return batch
