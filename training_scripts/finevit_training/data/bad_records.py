"""Records that cannot be trained on: skipped with a reason, and too many of them stop the run."""

from collections import Counter
from collections.abc import Iterable

MISSING = "unreadable: No such file"  # how the reason of a picture begins that is not where its path leads
ENOUGH_TRIED = 200  # rows that are read before the share of bad ones is looked at; all rows if there are fewer


class UnusableRecord(Exception):
    """No sample can be made of a row. The message is the reason, "kind: detail".

    Args:
        reason: the message.
        is_bad: something is wrong with the record; False where it is sound and only does not fit this run, for
            instance because the mixture's tasks find nothing to ask about it.
    """

    def __init__(self, reason: str, is_bad: bool = True) -> None:
        super().__init__(reason)
        self.is_bad = is_bad


class UnusableData(ValueError):
    """The data as a whole cannot be trained on. The message says why and what helps."""


class BadRecordShare:
    """Counts the records that one rank has read, and stops it when too many of them were bad.

    Args:
        most: the largest share of bad records, 0 to 1.
        records: how many there are for this rank, if that is known.
    """

    def __init__(self, most: float, records: int | None = None) -> None:
        self.most = most
        self.enough = ENOUGH_TRIED if records is None else max(1, min(ENOUGH_TRIED, records))
        self.tried = self.missing = 0
        self.bad: Counter[str] = Counter()

    def add(self, tried: int, reasons: Iterable[str]) -> None:
        """Counts `tried` records more, and why the bad ones among them, or among those before, are bad.

        Raises:
            UnusableData: more than the allowed share is bad.
        """
        self.tried += tried
        for reason in reasons:
            self.bad[reason_kind(reason)] += 1
            self.missing += reason.startswith(MISSING)
        if self.tried >= self.enough and self.bad.total() > self.most * self.tried:
            kinds = counted(self.bad)
            hint = ""
            if 2 * self.missing > self.bad.total():
                hint = (
                    ". Picture files are missing: their paths begin in the folder of the table that names them, or in "
                    "the source's `image_folder`; name the folder that they begin in"
                )
            raise UnusableData(
                f"{self.bad.total()} of the {self.tried} records read so far cannot be trained on ({kinds}), more "
                f"than max_bad_share {self.most:.0%}{hint}. Mend the data, or raise max_bad_share"
            )


def counted(kinds: Counter[str]) -> str:
    """Kinds of reasons with their numbers, the most frequent first."""
    return "; ".join(f"{count:,} x {kind}" for kind, count in kinds.most_common())


def reason_kind(reason: str) -> str:
    """The part of a reason that is the same for all records it applies to."""
    return reason.split(":")[0]
