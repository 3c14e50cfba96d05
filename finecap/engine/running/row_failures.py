"""A row on which a pass raises ends alone, as a reject; what is no row's own fault ends the try of its shard.

No row's own fault are StopRun, MemoryError and what the operating system answers (an OSError with an errno: the disk,
the network, too many open files). Everything else is, until it happens so often that it must be a bug: see
`RowFailures`.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from itertools import islice
from typing import Any

from finecap.engine.contract import Context, Pass, Row
from finecap.errors import StopRun

# A shard fails when all of its rows, and at least three, failed with one type of exception; and when at least ten, and
# more than half, did. Fewer than that may be pictures of one odd source in a small last shard.
ALL_ALIKE, MOST_ALIKE = 3, 10
# Rows in a row that fail with one type of error and end the shard at once: nobody has to wait, or pay, for the rest.
IN_A_ROW = 50
REASON_CHARACTERS = 300
TRACEBACK_CHARACTERS = 4000


class ManyRowsFailed(RuntimeError):
    """Too many rows failed alike to be bad rows: a bug. The message holds a traceback, and its last line the count."""


class RowFailures:
    """Counts the rows of a shard that passed and that failed.

    Each type of exception is counted as "failed: TYPE" and leaves the traceback of its first row in
    `context.tracebacks`.

    Attributes:
        passed: rows that were done.
    """

    def __init__(self, context: Context) -> None:
        self.passed = 0
        self._context = context
        self._failed: Counter[str] = Counter()
        self._first: dict[str, str] = {}
        self._passed_before, self._in_a_row = 0, Counter[str]()

    def reason(self, key: str, error: Exception) -> str:
        """The reject of a row on which a pass raised: "failed: TYPE: what the exception says".

        Raises:
            Exception: `error` itself, if it is no row's own fault.
            ManyRowsFailed: as the rows before failed alike.
        """
        raise_if_shared(error)
        kind = type(error).__name__
        text = _writable(" ".join(f"{kind}: {error}".split()))[:REASON_CHARACTERS].rstrip(": ")
        self._first.setdefault(kind, text)
        if kind not in self._context.tracebacks:
            lines = "".join(traceback.format_exception(error))[-TRACEBACK_CHARACTERS:]
            self._context.tracebacks[kind] = _writable(f"row {key!r}\n{lines}")
        self._context.counters[f"failed: {kind}"] += 1
        self._failed[kind] += 1
        if self.passed != self._passed_before:
            self._passed_before, self._in_a_row = self.passed, Counter()
        self._in_a_row[kind] += 1
        if self._in_a_row[kind] >= IN_A_ROW:
            raise self._many(kind, self._in_a_row[kind], self._in_a_row.total())
        return f"failed: {text}"

    def check(self) -> None:
        """Call it when all rows were tried.

        Raises:
            ManyRowsFailed: all, or most, of them failed alike.
        """
        tried = self.passed + self._failed.total()
        for kind, count in self._failed.items():
            if (count >= ALL_ALIKE and count == tried) or (count >= MOST_ALIKE and 2 * count > tried):
                raise self._many(kind, count, tried)

    def _many(self, kind: str, count: int, tried: int) -> ManyRowsFailed:
        return ManyRowsFailed(
            "too many rows failed alike to be bad rows: this is taken for a bug; the first was\n"
            f"{self._context.tracebacks[kind].strip()}\n{count} of {tried} rows failed alike: {self._first[kind]}"
        )


def raise_if_shared(error: Exception) -> None:
    """Raise an error again that is no row's own fault; else return."""
    system = isinstance(error, OSError) and error.errno is not None
    if system or isinstance(error, StopRun | MemoryError | ManyRowsFailed):
        raise error


def _writable(text: str) -> str:
    """Without half a surrogate pair, which no file can hold."""
    return text.encode("utf-8", "replace").decode()


def surviving(step: Pass, options: Any, context: Context, open_rows: Callable[[], Iterator[Row]]) -> Iterator[Row]:
    """What a pass returns for the rows of a shard, with a reject in place of each row on which it raises.

    After an exception the rows that have no result yet are given to the pass one by one until the one that fails is
    found, then the rest together again. A pass that is not aligned gets all rows one by one, as it cannot be seen
    which of them its results belong to.

    Args:
        open_rows: the live rows from the first on, as often as it is called.

    Raises:
        ManyRowsFailed: see `RowFailures`.
        Exception: what is no row's own fault, or was raised before a row was read.
    """
    failures = RowFailures(context)
    rows, done, together = open_rows(), 0, step.aligned
    while True:
        if together:
            reading = _Reading(rows)
            try:
                for result in step.run(reading, options, context):
                    yield result
                    done += 1
                    failures.passed += 1
                break
            except Exception as error:
                raise_if_shared(error)
                if not reading.begun:
                    raise
            rows = islice(open_rows(), done, None)
        results, found = yield from _up_to_a_failure(step, options, context, rows, failures)
        done += results
        if not found:
            break
    failures.check()


class _Reading:
    """An iterator that knows whether it was read from."""

    def __init__(self, rows: Iterator[Row]) -> None:
        self.begun = False
        self._rows = rows

    def __iter__(self) -> _Reading:
        return self

    def __next__(self) -> Row:
        self.begun = True
        return next(self._rows)


def _up_to_a_failure(
    step: Pass, options: Any, context: Context, rows: Iterator[Row], failures: RowFailures
) -> Generator[Row, None, tuple[int, bool]]:
    """Give a pass its rows one by one up to the first that fails; returns how many results that made, and whether one
    failed.
    """
    done = 0
    for row in rows:
        key = row["key"]
        try:
            results = list(step.run(iter((row,)), options, context))
        except Exception as error:
            reason = failures.reason(key, error)
            yield {"key": key, "reject": reason}
            return done + 1, True
        yield from results
        failures.passed += 1
        done += 1
    return done, False
