"""What a pass is: a pure function over the live rows of one shard, and what it is given beside them.

A pass never copies what came before. It returns, for every live row and in the same order, a dict with `key`, its own
columns and, when the row is to be dropped, `reject`: the reason, in the form "kind: detail" (counted by kind). A row
that an earlier pass rejected is never shown to a later one, so each image ends once: in a record or in one reject.

An exception ends the row on which it was raised and no other: the runner makes it the reject "failed: TYPE: ...". See
`finecap.engine.running.row_failures` for what ends a shard or the run instead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from finecap.engine.captioners.ensemble import Budget, Captioner
from finecap.engine.running.journal import Journal
from finecap.shards.plan import Row


@dataclass(frozen=True)
class Settings:
    """What the recipe says beyond a pass's own options.

    Attributes:
        seed: of every draw.
        captioners: the ensemble.
        budget: where the run stops.
        options: options of each pass that runs, by its name.
        functions: functions that take the place of passes, by the name of the pass.
    """

    seed: int = 0
    captioners: tuple[Captioner, ...] = ()
    budget: Budget = field(default_factory=Budget)
    options: Mapping[str, Any] = field(default_factory=dict)
    functions: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Context:
    """What a pass over one shard may use beside its rows and options.

    Attributes:
        shard: name of the shard.
        settings: what the recipe says beyond the options.
        journal: paid answers of this pass and shard that survive a crash.
        counters: figures for `finevit caption status`, for instance `counters["captions dropped: refusal"] += 1`.
        reduced: what the pass's `reduce` wrote; None for passes without one.
        out: the run's folder, for what belongs to the run as a whole (the spending ledger, reports).
        models: heavy things of this worker process by name; see `load`.
        tracebacks: the first one of each type of exception that a row raised.
    """

    shard: str
    settings: Settings
    journal: Journal
    reduced: Path | None
    out: Path
    models: dict[str, Any]
    counters: Counter[str] = field(default_factory=Counter)
    tracebacks: dict[str, str] = field(default_factory=dict)

    def load(self, name: str, build: Callable[[], Any]) -> Any:
        """A model, a client or an event loop that is built once in each worker process and kept for later shards."""
        if name not in self.models:
            self.models[name] = build()
        return self.models[name]


RunPass = Callable[[Iterator[Row], Any, Context], Iterable[Row]]
Reduce = Callable[[dict[str, list[Path]], Any, Path], None]


@dataclass(frozen=True)
class Pass:
    """One step of the engine.

    Attributes:
        name: of its section in the recipe and of its folder.
        options: dataclass of its section.
        columns: what it adds to each row.
        reads: columns of earlier passes that its function gets, beside `key`. The value of a column with a "?" behind
            its name is None if no pass made that column.
        parents: passes whose output it needs; a parent that the recipe leaves out is replaced by that one's parents.
        run: the function over the live rows of one shard. After an exception it is called again for the rows that
            have no result yet, so what is heavy belongs into `Context.load`.
        reduce: for passes that must see the whole collection first: gets the output files of each pass of `reduces`
            (by its name, in the order of the shards), the options, and the path of the one file to write.
        reduces: the passes whose outputs `reduce` reads.
        optional: True when it only runs if the recipe has its section.
        aligned: its output has one row for each ingested row, in that order; else one for each live row that is
            not dropped, rejects are only counted, and `run` is called for one row at a time.
        version: of what it writes. Raise it with a change after which the same input gives other rows: outputs of the
            version before are then made again.
    """

    name: str
    options: type
    columns: pa.Schema
    reads: tuple[str, ...]
    parents: tuple[str, ...]
    run: RunPass
    reduce: Reduce | None = None
    reduces: tuple[str, ...] = ()
    optional: bool = True
    aligned: bool = True
    version: int = 1
