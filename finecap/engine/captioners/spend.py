"""What a run has paid, over all its processes and machines and all its starts; what was spent stays spent.

Each process keeps one small file of running totals in OUT/spend, which it alone writes:

    requests prompt_tokens completion_tokens nanodollars checksum

in two places by turns, so that whichever write a crash tears, the totals before it stand. A file has this size however
long the run is, and needs no further space on a full disk.
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
# The others are read at most once in this many seconds, and reading them takes at most this share of the time.
REFRESH_SECONDS, REFRESH_SHARE = 1.0, 0.05


@dataclass(frozen=True)
class Spend:
    """Paid answers. Dollars are kept in thousand-millionths, so that the cheapest token counts."""

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


def price(captioner: Captioner, prompt_tokens: int, completion_tokens: int) -> Spend:
    """What one answer costs."""
    dollars_times_million = (
        prompt_tokens * captioner.dollars_per_million_prompt_tokens
        + completion_tokens * captioner.dollars_per_million_completion_tokens
    )
    return Spend(1, prompt_tokens, completion_tokens, round(dollars_times_million * 1000))


def spent(out: Path) -> Spend:
    """What the run in `out` has paid so far, by all processes that ever worked on it; from any machine."""
    return _sum((out / FOLDER).glob("*.txt"))


class Ledger:
    """The books of this process, and those of the others as they were at most a second ago.

    A process that dies after a provider answered and before `pay` leaves that answer out: the true sum may be above
    the ledger's by what was in flight at each crash.
    """

    def __init__(self, out: Path) -> None:
        # A name of its own for each start: process ids come again, in containers at once.
        self._path = out / FOLDER / f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.txt"
        self._file: int | None = None
        self._own = Spend()
        self._others = Spend()
        self._next_look = 0.0
        self._writes = 0

    def pay(self, spend: Spend) -> None:
        """Add to the books, at once on the file (not synced).

        Raises:
            StopRun: the disk is full or cannot be written.
        """
        self._own += spend
        try:
            if self._file is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            os.pwrite(self._file, _slot(self._own), SLOT * (self._writes % 2))
        except OSError as error:
            raise_disk_error(error, self._path)
            raise
        self._writes += 1

    def total(self) -> Spend:
        """Everything paid: exact for this process, at most `REFRESH_SECONDS` late for the others on this machine.

        On a network file system, how late is up to its caching; the own file is synced here for the others to see.
        """
        start = time.monotonic()
        if start >= self._next_look:
            if self._file is not None:
                os.fsync(self._file)
            self._others = _sum(path for path in self._path.parent.glob("*.txt") if path != self._path)
            took = time.monotonic() - start
            self._next_look = start + max(REFRESH_SECONDS, took / REFRESH_SHARE)
        return self._own + self._others

    def close(self) -> None:
        """Close the file; the totals stay."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


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
