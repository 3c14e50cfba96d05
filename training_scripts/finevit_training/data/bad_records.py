"""Records that cannot be trained on: skipped with a reason, and too many of them stop the run."""

from collections import Counter


class UnusableRecord(Exception):
    """No sample can be made of a record. The message is the reason, "kind: detail".

    Args:
        reason: the message.
        is_bad: something is wrong with the record; False where it is sound and only does not fit this run, for
            instance because the mixture's tasks find nothing to ask about it.
    """

    def __init__(self, reason: str, is_bad: bool = True) -> None:
        super().__init__(reason)
        self.is_bad = is_bad


class BadRecordShare:
    """Counts the records that one process has tried, and stops it when too many of them were bad.

    Args:
        most: the largest share of bad records, 0 to 1.
        after: records that are tried before the share is looked at.
    """

    def __init__(self, most: float, after: int) -> None:
        self.most = most
        self.after = after
        self.tried = 0
        self.bad: Counter[str] = Counter()

    def add(self, error: UnusableRecord | None) -> None:
        """Counts one record: usable (None), or not.

        Raises:
            ValueError: more than the allowed share is bad.
        """
        self.tried += 1
        if error is None or not error.is_bad:
            return
        self.bad[reason_kind(str(error))] += 1
        if self.tried >= self.after and self.bad.total() > self.most * self.tried:
            reasons = "; ".join(f"{count} x {kind}" for kind, count in self.bad.most_common())
            raise ValueError(
                f"{self.bad.total()} of the {self.tried} records read so far cannot be trained on ({reasons}), more "
                f"than max_bad_share {self.most:.0%}. Mend the data, or raise max_bad_share"
            )


def reason_kind(reason: str) -> str:
    """The part of a reason that is the same for all records it applies to."""
    return reason.split(":")[0]
