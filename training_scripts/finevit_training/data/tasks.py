"""What loader processes are asked to do, and a round of the data while it is measured."""

from typing import Any, NamedTuple

from torch.utils.data import Dataset

from finevit_training.data.order import RoundKey, RowKey, WindowKey
from finevit_training.data.plan import Sized
from finevit_training.data.reader import Drafts, Planned, Reader


class Measure(NamedTuple):
    """Task: the drafts of a window."""

    window: WindowKey
    fraction: float


class Make(NamedTuple):
    """Task: the batch of some packs."""

    packs: list[list[Planned]]


class Idle(NamedTuple):
    """Task: nothing, while other ranks measure a window of this round."""

    round: RoundKey


# What a loader process has to do; None is nothing, while results are on their way.
Task = Measure | Make | Idle | None


class Answers(Dataset):
    """Task to result, in a loader process."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader

    def __getitem__(self, index: Task) -> Any:
        if isinstance(index, Measure):
            return self.reader.drafts(*index)
        return self.reader.batch(index.packs) if isinstance(index, Make) else index


class Round:
    """A round that is measured: the lengths of its samples, and the drafts of those in this rank's windows; or one
    whose lengths are all `written` in a plan.
    """

    def __init__(
        self,
        fraction: float,
        awaited: set[WindowKey],
        idle: int = 0,
        written: dict[WindowKey, list[Sized]] | None = None,
    ) -> None:
        self.fraction = fraction
        self.awaited = awaited
        self.idle = idle  # tasks without a window that have not come back
        self.drafts: dict[RowKey, Any] = {}
        self.is_written = written is not None
        self.sized = written or {}

    def receive(self, found: Drafts) -> None:
        self.awaited.remove(found.window)
        pairs = list(zip(found.keys, found.drafts, strict=True))
        self.drafts |= pairs
        self.sized[found.window] = [Sized(key, len(draft), draft.patches) for key, draft in pairs]
