"""What a run has paid, over all its processes and machines and all its starts; what was spent stays spent.

Each process keeps one small file of running totals in OUT/spend, which it alone writes:

    requests prompt_tokens completion_tokens nanodollars checksum

in two places by turns, so that whichever write a crash tears, the totals before it stand. A file has this size however
long the run is, and needs no further space on a full disk. What the process had to estimate, because no server said
it, is in a second file of the same form, whose name ends in "estimated.txt".
"""

from __future__ import annotations

import os
import socket
import time
import uuid
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from finecap.engine.captioners.ensemble import Captioner
from finecap.files import raise_disk_error

FOLDER = "spend"
# Four numbers and a CRC-32, in text that `cat` shows: 4 * 20 + 8 digits, blanks between, a line break.
SLOT = 93
ESTIMATED = "-estimated.txt"
# The others are read at most once in this many seconds, and reading them takes at most this share of the time.
REFRESH_SECONDS, REFRESH_SHARE = 1.0, 0.05


@dataclass(frozen=True)
class Spend:
    """Paid requests. Dollars are kept in thousand-millionths, so that the cheapest token counts."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    nanodollars: int = 0

    def __add__(self, other: Spend) -> Spend:
        return Spend(
            self.requests + other.requests,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.nanodollars + other.nanodollars,
        )

    @property
    def tokens(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens

    @property
    def dollars(self) -> float:
        """In dollars."""
        return self.nanodollars / 1e9


def microdollars(captioner: Captioner, prompt_tokens: float, completion_tokens: float) -> float:
    """What tokens cost in millionths of a dollar: their number times dollars per million of them."""
    return (
        prompt_tokens * captioner.dollars_per_million_prompt_tokens
        + completion_tokens * captioner.dollars_per_million_completion_tokens
    )


def price(captioner: Captioner, prompt_tokens: int, completion_tokens: int) -> Spend:
    """What one answer costs."""
    nanodollars = round(1000 * microdollars(captioner, prompt_tokens, completion_tokens))
    return Spend(1, prompt_tokens, completion_tokens, nanodollars)


def spent(out: Path) -> Spend:
    """What the run in `out` has paid so far, by all processes that ever worked on it, estimates included; from any
    machine.
    """
    return _sum((out / FOLDER).glob("*.txt"))


def estimated(out: Path) -> Spend:
    """The part of `spent(out)` that no server said: requests without usage, and those that ended without an answer
    (time-outs, lost connections), which a provider may bill or not.
    """
    return _sum((out / FOLDER).glob(f"*{ESTIMATED}"))


class _Book:
    """One file of running totals, made with the first payment."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.total = Spend()
        self._file: int | None = None
        self._writes = 0

    def add(self, spend: Spend) -> None:
        """Raises StopRun: the disk is full or cannot be written."""
        self.total += spend
        try:
            if self._file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            os.pwrite(self._file, _slot(self.total), SLOT * (self._writes % 2))
        except OSError as error:
            raise_disk_error(error, self.path)
            raise
        self._writes += 1

    def sync(self) -> None:
        if self._file is not None:
            os.fsync(self._file)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


class Ledger:
    """The books of this process, and those of the others as they were at most a second ago.

    A request whose answer does not arrive (a time-out, a lost connection) is paid by estimate, as if it had been
    answered at full length: the true sum may be below the ledger's by that. It may be above it by what was in flight
    when a process died.
    """

    def __init__(self, out: Path) -> None:
        # A name of its own for each start: process ids come again, in containers at once.
        name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._out = out
        self._said, self._estimated = (_Book(out / FOLDER / f"{name}{end}") for end in (".txt", ESTIMATED))
        self._others = Spend()
        self._next_look = 0.0

    def pay(self, spend: Spend, by_estimate: bool = False) -> None:
        """Add to the books, at once on the file (not synced).

        Args:
            by_estimate: the server did not say all of it.

        Raises:
            StopRun: the disk is full or cannot be written.
        """
        (self._estimated if by_estimate else self._said).add(spend)

    def total(self) -> Spend:
        """Everything paid: exact for this process, at most `REFRESH_SECONDS` late for the others on this machine.

        On a network file system, how late is up to its caching; the own file is synced here for the others to see.
        """
        start = time.monotonic()
        own = (self._said, self._estimated)
        if start >= self._next_look:
            for book in own:
                book.sync()
            mine = {book.path for book in own}
            self._others = _sum(path for path in (self._out / FOLDER).glob("*.txt") if path not in mine)
            took = time.monotonic() - start
            self._next_look = start + max(REFRESH_SECONDS, took / REFRESH_SHARE)
        return self._said.total + self._estimated.total + self._others

    def estimate(self) -> str:
        """For messages: how much of the total is an estimate; "" if nothing is."""
        part = estimated(self._out)
        return f" ({part.requests} requests and {part.tokens} tokens of that by estimate)" if part.requests else ""

    def close(self) -> None:
        """Close the files; the totals stay."""
        self._said.close()
        self._estimated.close()


def _slot(spend: Spend) -> bytes:
    numbers = b"%20d %20d %20d %20d " % (
        spend.requests,
        spend.prompt_tokens,
        spend.completion_tokens,
        spend.nanodollars,
    )
    return numbers + b"%08x\n" % zlib.crc32(numbers)


def _sum(paths: Iterable[Path]) -> Spend:
    return sum(map(_read, paths), Spend())


def _read(path: Path) -> Spend:
    """The later of the two totals; a torn one is ignored."""
    content = path.read_bytes()
    found = [Spend()]
    for slot in (content[:SLOT], content[SLOT : 2 * SLOT]):
        numbers, checksum = slot[: SLOT - 9], slot[SLOT - 9 :]
        if len(slot) == SLOT and checksum == b"%08x\n" % zlib.crc32(numbers):
            found.append(Spend(*map(int, numbers.split())))
    return max(found, key=lambda spend: spend.requests)
