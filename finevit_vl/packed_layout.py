# Copyright 2026 The FineViT project. Licensed under the Apache License, Version 2.0.
"""Which tokens of packed rows attend to which, from a table of segments and without a token-by-token mask.

A segment is a run of tokens of one row: a conversation, or a picture with what stands before it, or a turn about that
picture. Each token sees the segment's prefix (the picture of a turn), then its own segment up to itself.

Shape suffixes: S segments, T tokens of all rows, N segments of a block, Q their queries, K their keys.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch.nn.attention.flex_attention import BlockMask

from modeling_finevit.layouts import listed_blocks

# Lengths are rounded up to this, for few blocks: oneDNN builds kernels for each shape, and each call costs some time.
_LENGTH_STEP = 32
_FLEX_BLOCK = 128


class Varlen(NamedTuple):
    """What variable-length kernels take. Gaps between segments are sequences of their own.

    Attributes:
        cu_seqlens_q: (sequences + 1,) int32, boundaries of the queries, which lie as in the batch.
        cu_seqlens_k: the same for the keys; the same tensor where no segment has a prefix, as cuDNN's kernel wants.
        key_index: (keys,) int64, the tokens whose keys are to be laid one behind the other; None where they lie so.
        max_q: length of the longest sequence of queries.
        max_k: the same for the keys.
    """

    cu_seqlens_q: torch.Tensor
    cu_seqlens_k: torch.Tensor
    key_index: torch.Tensor | None
    max_q: int
    max_k: int

    @property
    def arguments(self) -> dict[str, Any]:
        """Without the index of the keys, by the names that transformers' attention interface has for them."""
        boundaries = {"cu_seq_lens_q": self.cu_seqlens_q, "cu_seq_lens_k": self.cu_seqlens_k}
        return boundaries | {"max_length_q": self.max_q, "max_length_k": self.max_k}


class Block(NamedTuple):
    """`count` segments that are computed together as `queries` x `keys` tokens each; all of them have a prefix, or
    none, and then a query sees the keys up to its own place.
    """

    count: int
    queries: int
    keys: int
    has_prefixes: bool


class Blocks(NamedTuple):
    """The segments in blocks of similar length. What fills a block up repeats its own tokens and is dropped again.

    Attributes:
        shapes: of the blocks.
        query_index: (sum of count·queries,) int64, the token of each place.
        key_index: (sum of count·keys,) int64.
        place_index: (T,) int64, the place of each token's result; behind the last place for a token of no segment.
        prefix_lengths: for each block (count,) int64.
    """

    shapes: list[Block]
    query_index: torch.Tensor
    key_index: torch.Tensor
    place_index: torch.Tensor
    prefix_lengths: list[torch.Tensor]


@dataclass(frozen=True)
class PackedLayout:
    """The segments of a batch, and what each implementation of attention needs of them, made once when first asked.

    Attributes:
        table: (S, 4) int64 on the host, see `read`; ordered by start.
        rows: number of rows.
        length: of a row in tokens.
        device: where the tensors that are made of it lie.
    """

    table: torch.Tensor
    rows: int
    length: int
    device: torch.device
    _masks: dict[Any, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, segments: Any, states: torch.Tensor) -> "PackedLayout":
        """The layout of a batch.

        Args:
            segments: (S, 4) integers: start and length of each segment, start and length of its prefix (length 0:
                none), in tokens of the flattened batch. A tensor or array on the host; one that lies on an
                accelerator is copied back, which waits for it.
            states: (rows, length, ...) of the batch.

        Raises:
            ValueError: segments that are empty, overlap or cross rows, or a prefix that is no whole earlier segment
                of the same row without a prefix.
        """
        table = torch.as_tensor(segments, device="cpu")
        if table.ndim != 2 or table.shape[1] != 4 or len(table) == 0 or table.is_floating_point():
            raise ValueError(
                "segments has one row of four integers (start, length, prefix_start, prefix_length) for each segment, "
                f"at least one, not {tuple(table.shape)} {table.dtype}."
            )
        table = table.long()
        table = table[table[:, 0].argsort()]
        rows, length = states.shape[:2]
        _check(table, rows, length)
        return cls(table, rows, length, states.device)

    @cached_property
    def position_ids(self) -> torch.Tensor:
        """(rows, length) int64: each token's position if its prefix and its segment stood alone; 0 in no segment."""
        start, length, _, prefix_length = self.table.unbind(1)
        positions = torch.zeros(self.rows * self.length, dtype=torch.long)
        positions[_ranges(start, length)] = _ranges(prefix_length, length)
        return positions.view(self.rows, self.length).to(self.device)

    @cached_property
    def token_mask(self) -> torch.Tensor:
        """(rows, length) int64: 1 on tokens of a segment, 0 on padding."""
        tokens = torch.zeros(self.rows * self.length, dtype=torch.long)
        tokens[_ranges(self.table[:, 0], self.table[:, 1])] = 1
        return tokens.view(self.rows, self.length).to(self.device)

    @property
    def has_prefixes(self) -> bool:
        return bool((self.table[:, 3] > 0).any())

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest segment, with what it sees before it."""
        return int((self.table[:, 1] + self.table[:, 3]).max())

    @property
    def is_read(self) -> bool:
        """Has an implementation of attention asked for what it needs?"""
        return bool(self._masks or vars(self).keys() & {"varlen", "blocks"})

    @cached_property
    def varlen(self) -> Varlen:
        """For `torch_varlen` and `flash_attention_2`."""
        start, length, prefix_start, prefix_length = self._without_gaps.unbind(1)
        boundaries = _boundaries(length).to(self.device)
        longest = int(length.max())
        if not self.has_prefixes:
            return Varlen(boundaries, boundaries, None, longest, longest)
        keys = _ranges(
            torch.stack([prefix_start, start], 1).flatten(), torch.stack([prefix_length, length], 1).flatten()
        )
        key_lengths = prefix_length + length
        key_boundaries = _boundaries(key_lengths).to(self.device)
        return Varlen(boundaries, key_boundaries, keys.to(self.device), longest, int(key_lengths.max()))

    @cached_property
    def blocks(self) -> Blocks:
        """For `sdpa` and `eager`."""
        shapes, queries, keys, prefixes = [], [], [], []
        place_index = torch.full((self.rows * self.length,), -1)
        places = 0
        for shape, segments in _grouped(self.table):
            start, length, prefix_start, prefix_length = (column[:, None] for column in segments.unbind(1))
            offset = torch.arange(shape.queries)
            token = start + offset.minimum(length - 1)
            place = places + torch.arange(token.numel()).view_as(token)
            real = offset < length
            place_index[token[real]] = place[real]
            queries.append(token)
            offset = torch.arange(shape.keys).minimum(prefix_length + length - 1)
            keys.append(torch.where(offset < prefix_length, prefix_start + offset, start + offset - prefix_length))
            prefixes.append(prefix_length.flatten().to(self.device))
            shapes.append(shape)
            places += token.numel()
        place_index[place_index < 0] = places
        query_index, key_index = (torch.cat([part.flatten() for part in parts]) for parts in (queries, keys))
        device = self.device
        return Blocks(shapes, query_index.to(device), key_index.to(device), place_index.to(device), prefixes)

    def block_mask(self, number: int, dtype: torch.dtype, window: int | None) -> torch.Tensor:
        """Of one of `blocks` (count, 1, Q, K) of `dtype`: 0 where a query sees a key and the type's lowest number
        elsewhere, which `eager` adds and `sdpa` takes.

        Args:
            dtype: what attention is computed in.
            window: how many positions back a query sees, itself included; None: all.
        """
        if (number, dtype, window) not in self._masks:
            blocks = self.blocks
            mask = _block_mask(blocks.shapes[number], blocks.prefix_lengths[number], dtype, window)
            self._masks[number, dtype, window] = mask
        return self._masks[number, dtype, window]

    def flex_mask(self, window: int | None) -> BlockMask:
        """For `flex_attention` over the flattened batch. Padding sees padding."""
        if ("flex", window) not in self._masks:
            self._masks["flex", window] = self._flex_mask(window)
        return self._masks["flex", window]

    def _flex_mask(self, window: int | None) -> BlockMask:
        table, tokens, size = self._without_gaps, self.rows * self.length, _FLEX_BLOCK
        numbers = torch.arange(len(table)).repeat_interleave(table[:, 1]).to(self.device)
        segment_of_start = torch.zeros(tokens, dtype=torch.long)
        segment_of_start[table[:, 0]] = torch.arange(len(table))
        prefix_of = torch.where(table[:, 3] > 0, segment_of_start[table[:, 2]], -1).to(self.device)[numbers]
        positions = self.position_ids.flatten()
        meets = torch.zeros(-(-tokens // size), -(-tokens // size), dtype=torch.bool)
        for start, length, prefix_start, prefix_length in table.tolist():
            rows = slice(start // size, (start + length - 1) // size + 1)
            meets[rows, rows] = True
            if prefix_length:
                meets[rows, prefix_start // size : (prefix_start + prefix_length - 1) // size + 1] = True

        def visible(batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
            own = (numbers[query] == numbers[key]) & (key <= query)
            seen = own | (prefix_of[query] == numbers[key])
            return seen & (positions[query] - positions[key] < window) if window else seen

        blocks = listed_blocks(meets.tril_().to(self.device))
        return BlockMask.from_kv_blocks(*blocks, BLOCK_SIZE=size, mask_mod=visible, seq_lengths=(tokens, tokens))

    @property
    def _without_gaps(self) -> torch.Tensor:
        """The table with every run of padding as a segment more."""
        ends = self.table[:, 0] + self.table[:, 1]
        gap_start = torch.cat([torch.zeros(1, dtype=torch.long), ends])
        gap_end = torch.cat([self.table[:, 0], torch.tensor([self.rows * self.length])])
        none = torch.zeros_like(gap_start)
        gaps = torch.stack([gap_start, gap_end - gap_start, none, none], 1)
        table = torch.cat([self.table, gaps[gaps[:, 1] > 0]])
        return table[table[:, 0].argsort()]


def _check(table: torch.Tensor, rows: int, length: int) -> None:
    """See `PackedLayout.read`."""
    start, size, prefix_start, prefix_size = table.t().contiguous()
    last = start + size - 1
    if bool((size < 1).any() or (start < 0).any() or (last >= rows * length).any() or (prefix_size < 0).any()):
        raise ValueError(f"A segment is empty or lies outside of the batch of {rows} x {length} tokens.")
    if bool((start // length != last // length).any()):
        raise ValueError(
            f"A segment crosses rows: start and length count tokens of rows of {length}, laid end to end."
        )
    if bool((start[1:] <= last[:-1]).any()):
        raise ValueError("Segments overlap: a token may lie in one segment only.")
    turns = prefix_size > 0
    prefix = torch.searchsorted(start, prefix_start[turns]).clamp(max=len(table) - 1)
    whole = (start[prefix] == prefix_start[turns]) & (size[prefix] == prefix_size[turns]) & ~turns[prefix]
    before = (start[prefix] < start[turns]) & (start[prefix] // length == start[turns] // length)
    if not bool((whole & before).all()):
        raise ValueError(
            "A segment's prefix must be a whole earlier segment of the same row that has no prefix itself."
        )


def _ranges(starts: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """start, start + 1, ... of each range, one behind the other."""
    ends = lengths.cumsum(0)
    return torch.arange(int(ends[-1]) if len(ends) else 0) + (starts - ends + lengths).repeat_interleave(lengths)


def _boundaries(lengths: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)


def _grouped(table: torch.Tensor) -> Iterator[tuple[Block, torch.Tensor]]:
    """Segments of about the same number of queries and keys, with a prefix or without one."""
    sizes = torch.stack([table[:, 1], table[:, 1] + table[:, 3]], 1)
    sizes += -sizes % _LENGTH_STEP
    kinds, kind_of = torch.cat([sizes, table[:, 3:] > 0], 1).unique(dim=0, return_inverse=True)
    for number, (queries, keys, has_prefixes) in enumerate(kinds.tolist()):
        segments = table[kind_of == number]
        yield Block(len(segments), queries, keys, bool(has_prefixes)), segments


def _block_mask(shape: Block, prefix_lengths: torch.Tensor, dtype: torch.dtype, window: int | None) -> torch.Tensor:
    key = torch.arange(shape.keys, device=prefix_lengths.device)
    query = torch.arange(shape.queries, device=prefix_lengths.device)[:, None] + prefix_lengths[:, None, None, None]
    hidden = key > query
    if window:
        hidden |= key <= query - window
    return torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, torch.finfo(dtype).min)


__all__ = ["Block", "Blocks", "PackedLayout", "Varlen"]
