"""One pass over one shard: read the live rows, run the function, commit the result. Every executor calls just this."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from finecap.engine.contract import Context, Pass, Row
from finecap.engine.recipe import Recipe
from finecap.engine.running.journal import Journal
from finecap.engine.running.row_failures import RowFailures, raise_if_shared, surviving
from finecap.engine.running.store import Store
from finecap.files import claimed, committed, raise_disk_error
from finecap.shards.plan import READ_BUFFER, Shard, read_shard, rows_at_once

STATS_KEY = b"finecap"
# Rows that are written at a time: what is held in memory of a shard full of pictures.
WRITE_ROWS = 128
WRITE_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Run:
    """A recipe over an input into a folder; what a worker needs to do any part of it."""

    recipe: Recipe
    store: Store
    shards: tuple[Shard, ...]

    def output(self, name: str, shard: str) -> Path:
        """Where pass `name` over `shard` is committed."""
        return self.store.output(self.recipe.pass_key(name), shard)

    def reduced(self, name: str) -> Path:
        """Where what pass `name` found over the whole collection is committed."""
        return self.store.reduced(self.recipe.pass_key(name))


@dataclass
class ShardStats:
    """What a pass did to a shard; lies in the footer of its output.

    Attributes:
        rows: live rows it saw.
        rejects: how many it dropped, by kind (what stands before the colon of the reason).
        seconds: of wall clock in the process that committed.
        counters: figures of the pass's own, and "failed: TYPE", the rows on which it raised.
        tracebacks: the first one of each of those types.
    """

    name: str
    shard: str
    rows: int
    rejects: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    counters: dict[str, int] = field(default_factory=dict)
    tracebacks: dict[str, str] = field(default_factory=dict)


def read_stats(output: Path) -> ShardStats:
    """The statistics of a committed output; reads its footer alone."""
    return ShardStats(**json.loads(pq.read_metadata(output).metadata[STATS_KEY]))


def run_shard(run: Run, name: str, shard: Shard, models: dict[str, Any]) -> ShardStats | None:
    """Run one pass over one shard, unless its output exists.

    Args:
        models: heavy things of this process, kept from call to call.

    Returns:
        What was done, now or before; None while another process is at work on it.

    Raises:
        StopRun: the run as a whole cannot go on.
        Exception: what no row alone is to blame for (see `row_failures`); nothing is committed, paid answers stay in
            the journal.
    """
    output = run.output(name, shard.name)
    if output.exists():
        # A worker that dies right after the commit leaves the journal.
        run.store.journal(run.recipe.pass_key(name), shard.name).unlink(missing_ok=True)
        return read_stats(output)
    with claimed(output) as mine:
        if not mine:
            return None
        if output.exists():
            return read_stats(output)
        return _run_claimed(run, run.recipe.step(name), shard, models, output)


def run_reduce(run: Run, name: str) -> None:
    """Let a pass look at the whole collection, unless it has; all passes it reads must be committed for every shard.

    Raises:
        StopRun: the disk is full.
        Exception: what the pass raises; nothing is committed.
    """
    out = run.reduced(name)
    step = run.recipe.step(name)
    if out.exists() or step.reduce is None:
        return
    with claimed(out) as mine:
        if mine and not out.exists():
            outputs = {source: [run.output(source, shard.name) for shard in run.shards] for source in step.reduces}
            with committed(out) as aside:
                step.reduce(outputs, run.recipe.passes[name], aside)


def _run_claimed(run: Run, step: Pass, shard: Shard, models: dict[str, Any], output: Path) -> ShardStats:
    start = time.perf_counter()
    journal = Journal(run.store.journal(run.recipe.pass_key(step.name), shard.name))
    reduced = run.reduced(step.name) if step.reduce else None
    context = Context(shard.name, run.recipe.settings, journal, reduced, run.store.out, models)
    try:
        with ExitStack() as files, committed(output) as aside:
            keys, alive, rows = _live_rows(run, step, shard, files)
            results = surviving(step, run.recipe.passes[step.name], context, rows.open)
            # A function in place of ingest may make rows of its own.
            if step.aligned and (step.parents or step.name not in run.recipe.functions):
                results = _aligned(step, keys, alive, rows, results)
            with _Writer(aside, step, RowFailures(context)) as writer:
                for result in results:
                    writer.add(result)
                writer.finish()
                stats = ShardStats(step.name, shard.name, sum(alive) if step.parents else writer.rows)
                stats.rejects = dict(writer.rejects)
                stats.counters = dict(context.counters)
                stats.tracebacks = context.tracebacks
                stats.seconds = round(time.perf_counter() - start, 3)
                writer.metadata = asdict(stats)
    except OSError as error:
        raise_disk_error(error, output)
        raise
    finally:
        journal.close()
    journal.drop()
    run.store.error(run.recipe.pass_key(step.name), shard.name).unlink(missing_ok=True)
    return stats


class _Rows:
    """The live rows of a shard, from the first on as often as they are opened; `rest` goes on in the latest."""

    def __init__(self, read: Callable[[], Iterator[Row]]) -> None:
        self._read = read
        self.rest: Iterator[Row] = iter(())

    def open(self) -> Iterator[Row]:
        self.rest = self._read()
        return self.rest


def _live_rows(run: Run, step: Pass, shard: Shard, files: ExitStack) -> tuple[list[str], list[bool], _Rows]:
    """Keys of all rows, which of them are alive, and a lazy reader of the live ones.

    A pass that reads the input fills the two lists as it reads.
    """
    if not step.parents:
        keys, alive = [], []
        return keys, alive, _Rows(lambda: _read_input(run, shard, keys, alive))
    ancestors = [run.recipe.step(name) for name in run.recipe.ancestors(step.name)]
    paths = {other.name: run.output(other.name, shard.name) for other in ancestors}
    flags = [pq.read_table(path, columns=["key", "reject"]) for path in paths.values()]
    keys = flags[0]["key"].to_pylist()
    alive = [True] * len(keys)
    for path, table in zip(paths.values(), flags, strict=True):
        if table["key"].to_pylist() != keys:
            raise RuntimeError(
                f"{path}: its rows are not those of {next(iter(paths.values()))}; delete it and run again"
            )
        alive = [a and reject is None for a, reject in zip(alive, table["reject"].to_pylist(), strict=True)]
    return keys, alive, _Rows(lambda: _read_live(step, ancestors, paths, keys, alive, files))


def _read_input(run: Run, shard: Shard, keys: list[str], alive: list[bool]) -> Iterator[Row]:
    if shard.in_store:
        listing = json.loads(run.store.listing(shard.name).read_text(encoding="utf-8"))
        shard = replace(shard, files=tuple(listing["files"]), fields=listing["fields"], in_store=False)
    for number, row in enumerate(read_shard(shard)):
        if number == len(keys):  # it may be read again from the first row on
            keys.append(row["key"])
            alive.append(True)
        yield row


def _read_live(
    step: Pass, ancestors: list[Pass], paths: dict[str, Path], keys: list[str], alive: list[bool], files: ExitStack
) -> Iterator[Row]:
    wanted = [name.removesuffix("?") for name in step.reads]
    columns: dict[str, list[str]] = {}
    for other in ancestors:
        here = [name for name in wanted if name in other.columns.names]
        if here:
            columns[other.name] = here
    missing = dict.fromkeys(set(wanted) - {name for here in columns.values() for name in here})
    readers = [
        _read_rows(files.enter_context(pq.ParquetFile(paths[name], pre_buffer=False, buffer_size=READ_BUFFER)), here)
        for name, here in columns.items()
    ]
    for key, living, *parts in zip(keys, alive, *readers, strict=True):
        if living:
            row: Row = {"key": key, **missing}
            for part in parts:
                row.update(part)
            yield row


def _read_rows(file: pq.ParquetFile, columns: list[str]) -> Iterator[Row]:
    for batch in file.iter_batches(rows_at_once(file.metadata, columns), columns=columns):
        for row in range(len(batch)):  # one by one: pictures become Python objects only when their turn comes
            yield {name: batch.column(name)[row].as_py() for name in columns}


def _aligned(step: Pass, keys: list[str], alive: list[bool], rows: _Rows, results: Iterator[Row]) -> Iterator[Row]:
    """One row for each ingested row: the results of the live ones, nothing for the others.

    Args:
        rows: what the pass was given; `keys` and `alive` may grow while it is read.

    Raises:
        RuntimeError: the pass lost, doubled or swapped a row, or did not read them all.
    """
    number = 0
    while True:
        dead = number < len(keys) and not alive[number]
        result = {"key": keys[number]} if dead else next(results, None)
        if number >= len(keys):
            if result is None:
                break
            raise RuntimeError(f"pass {step.name} returned more rows than it was given: {result.get('key')!r}")
        if result is None or result.get("key") != keys[number]:
            got = "nothing" if result is None else f"a row with the key {result.get('key')!r}"
            raise RuntimeError(f"pass {step.name} returned {got} where the row {keys[number]!r} was expected")
        yield result
        number += 1
    if (left := next(rows.rest, None)) is not None:
        raise RuntimeError(f"pass {step.name} returned nothing where the row {left['key']!r} was expected")


class _Writer:
    """Writes result rows batch by batch; the statistics go into the footer. A row that does not fit the columns of its
    pass becomes a reject. A pass that is not aligned has no column for rejects: they are counted and left out.

    Attributes:
        rows: how many there are.
        rejects: how many of them are rejected, by kind.
    """

    def __init__(self, path: Path, step: Pass, failures: RowFailures) -> None:
        head = [("key", pa.string()), ("reject", pa.string())] if step.aligned else []
        self.schema = pa.schema(head + list(step.columns)).with_metadata(step.columns.metadata)
        self.path = path
        self.rows = 0
        self.rejects: Counter[str] = Counter()
        self.metadata: dict[str, Any] = {}
        self._aligned, self._failures = step.aligned, failures
        self._waiting: list[Row] = []
        self._bytes = 0

    def __enter__(self) -> _Writer:
        self._file = pq.ParquetWriter(
            self.path, self.schema, compression="zstd", use_content_defined_chunking=True, write_page_index=True
        )
        return self

    def add(self, row: Row) -> None:
        if not self._aligned and (reason := row.get("reject")):
            self.rejects[reason.split(":")[0]] += 1
            return
        self._waiting.append(row)
        image = row.get("image")
        image = image.get("bytes") if isinstance(image, dict) else image
        self._bytes += len(image) if isinstance(image, bytes) else 0
        if len(self._waiting) >= WRITE_ROWS or self._bytes >= WRITE_BYTES:
            self._flush()

    def finish(self) -> None:
        """Write what waits.

        Raises:
            ManyRowsFailed: most rows do not fit the columns of the pass.
        """
        if self._waiting or not self.rows:
            self._flush()
        self._failures.check()

    def _flush(self) -> None:
        try:
            table = pa.Table.from_pylist(self._waiting, schema=self.schema)
        except Exception as error:
            raise_if_shared(error)
            fitting = [fit for row in self._waiting if (fit := self._fitting(row))]
            table = pa.Table.from_pylist(fitting, schema=self.schema)
        else:
            self._failures.passed += len(self._waiting)
        if self._aligned:
            reasons = (reason for reason in table["reject"].to_pylist() if reason)
            self.rejects.update(reason.split(":")[0] for reason in reasons)
        self._file.write_table(table)
        self.rows += len(table)
        self._waiting, self._bytes = [], 0

    def _fitting(self, row: Row) -> Row | None:
        """The row, or its reject if it does not fit the columns; None where there is no column for that."""
        try:
            pa.Table.from_pylist([row], schema=self.schema)
        except Exception as error:
            reason = self._failures.reason(row.get("key") or row.get("id") or "?", error)
            if self._aligned:
                return {"key": row["key"], "reject": reason}
            self.rejects[reason.split(":")[0]] += 1
            return None
        self._failures.passed += 1
        return row

    def __exit__(self, kind: Any, *_: object) -> None:
        try:
            if kind is None:
                self._file.add_key_value_metadata({STATS_KEY: json.dumps(self.metadata).encode()})
        finally:
            self._file.close()
