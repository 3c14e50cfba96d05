"""In which order rows are read. An epoch is cut into rounds, those into windows, those into pieces.

The order is a pure function of (seed, epoch) and of the list of parts (a row group of a parquet file, a range of an
archive, some files of a folder). It knows nothing of ranks and loader workers. Pieces are in random order over the
whole epoch, rows in random order inside their window, and the windows of a round are trained on side by side.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

UNKNOWN_ROWS = 1000  # what a part whose rows nobody has counted yet is taken for when windows are cut
LANES = 8  # parts that an optimizer step is cut into at most; each is taken from one window
# Windows side by side for each lane. Loader processes whose number divides this read windows of their own.
DEPTH = 8
# Rows of a window. Small data has small ones, so that a curriculum can change several times an epoch. Large data
# may be far away, and large windows are read once.
SMALL_WINDOW, LARGE_WINDOW, LARGE_DATA = 128, 512, 100_000
BLOCK = 8  # packs that a lane takes from such a window at a time; if steps take more, windows have more rows


def lanes_of(step: int) -> int:
    """Lanes of an optimizer step of so many packs; the same for any number of ranks."""
    return next(lanes for lanes in range(min(LANES, step), 0, -1) if step % lanes == 0)


class RoundKey(NamedTuple):
    """Names a round of an epoch."""

    epoch: int
    round: int


class WindowKey(NamedTuple):
    """Names a window of an epoch, by its number in the epoch."""

    epoch: int
    window: int


class RowKey(NamedTuple):
    """Names one sample: a row of a part, and the how-manieth time that this row comes in its epoch (from 0)."""

    epoch: int
    part: int
    row: int
    copy: int


class Piece(NamedTuple):
    """A part, or a random share (above 0, at most 1) of its rows; `copy` counts the pieces of a part in an epoch."""

    part: int
    copy: int
    share: float


class Order:
    """The order of the rows of every epoch.

    A part's weight says how many times its rows come in an epoch: 1 is once, 2.5 twice and a random half of them a
    third time.

    Args:
        rows: of each part; `UNKNOWN_ROWS` where nobody knows.
        weights: of each part, at least 0.
        seed: the run's.
        window_rows: about as many rows are shuffled and packed together.
        streams: most windows that are trained on side by side.

    Raises:
        ValueError: there are no rows at all.
    """

    def __init__(
        self, rows: Sequence[int], weights: Sequence[float], seed: int, window_rows: int, streams: int
    ) -> None:
        if not any(count and weight for count, weight in zip(rows, weights, strict=True)):
            raise ValueError("the data holds no rows; correct `data`, or use `finevit corpus build`")
        self.rows = np.asarray(rows, dtype=np.float64)
        self.weights = np.asarray(weights, dtype=np.float64)
        self.seed = seed
        self.window_rows = window_rows
        self.streams = streams
        self._epochs: dict[int, _Epoch] = {}

    def num_rounds(self, epoch: int) -> int:
        """Rounds of an epoch."""
        return -(-self._epoch(epoch).num_windows // self.streams)

    def after(self, key: RoundKey) -> RoundKey:
        """The round that follows."""
        last = key.round + 1 == self.num_rounds(key.epoch)
        return RoundKey(key.epoch + 1, 0) if last else RoundKey(key.epoch, key.round + 1)

    def windows(self, key: RoundKey) -> list[WindowKey]:
        """The windows of a round; all rounds of an epoch have nearly as many."""
        total, rounds = self._epoch(key.epoch).num_windows, self.num_rounds(key.epoch)
        first, last = key.round * total // rounds, (key.round + 1) * total // rounds
        return [WindowKey(key.epoch, window) for window in range(first, last)]

    def pieces(self, key: WindowKey) -> list[Piece]:
        """What a window is made of."""
        epoch = self._epoch(key.epoch)
        places = slice(epoch.starts[key.window], epoch.starts[key.window + 1])
        columns = (epoch.parts[places].tolist(), epoch.copies[places].tolist(), epoch.shares[places].tolist())
        return [Piece(*values) for values in zip(*columns, strict=True)]

    def row_keys(self, key: WindowKey, counts: Sequence[int]) -> list[RowKey]:
        """The rows of a window in their order.

        Args:
            counts: the true number of rows of each piece's part.
        """
        rows = []
        for piece, count in zip(self.pieces(key), counts, strict=True):
            places = range(count) if piece.share == 1 else self._drawn(key.epoch, piece, count)
            rows += [RowKey(key.epoch, piece.part, row, piece.copy) for row in places]
        rng = np.random.default_rng((self.seed, key.epoch, key.window, 1))
        return [rows[place] for place in rng.permutation(len(rows)).tolist()]

    def _drawn(self, epoch: int, piece: Piece, count: int) -> list[int]:
        """A random share of the rows of a part; its expected size is exact."""
        rng = np.random.default_rng((self.seed, epoch, piece.part, piece.copy, 2))
        size = int(piece.share * count + rng.random())
        return sorted(rng.permutation(count)[:size].tolist())

    def _epoch(self, epoch: int) -> "_Epoch":
        if epoch not in self._epochs:
            self._epochs = {held: one for held, one in self._epochs.items() if held == epoch - 1}
            self._epochs[epoch] = _Epoch(self, epoch)
        return self._epochs[epoch]


def by_rounds(order: Order, epochs: float) -> Callable[[RoundKey, int], float]:
    """How far a run of so many epochs is when a round begins, whatever the step."""
    return lambda key, step: min(1.0, (key.epoch + key.round / order.num_rounds(key.epoch)) / epochs)


class _Epoch:
    """Pieces of one epoch in random order, as arrays, and where its windows start."""

    def __init__(self, order: Order, epoch: int) -> None:
        weights = order.weights
        whole = np.floor(weights).astype(np.int64)
        rest = weights - whole
        pieces = whole + (rest > 0)
        parts = np.repeat(np.arange(len(weights)), pieces)
        copies = np.arange(len(parts)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        shares = np.where(copies < whole[parts], 1.0, rest[parts])
        permutation = np.random.default_rng((order.seed, epoch, 0)).permutation(len(parts))
        self.parts, self.copies, self.shares = parts[permutation], copies[permutation], shares[permutation]
        rows = order.rows[self.parts] * self.shares
        before = np.cumsum(rows) - rows
        numbers = np.floor(before / order.window_rows)
        changes = np.flatnonzero(np.diff(numbers)) + 1
        self.starts = np.concatenate([[0], changes, [len(self.parts)]])
        self.num_windows = len(self.starts) - 1
