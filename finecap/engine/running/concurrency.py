"""Many requests at once over the rows of a shard, with bounded memory; and a row that fails ends alone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import ParamSpec, TypeVar

from finecap.engine.contract import Context, Row
from finecap.engine.running.row_failures import RowFailures

T = TypeVar("T")
P = ParamSpec("P")
# Pictures that a worker decodes at once. `in_flight` may be large, and what it counts waits for answers; a picture
# that is being decoded takes up to 9 bytes a pixel.
DECODERS = 4


def event_loop(context: Context) -> asyncio.AbstractEventLoop:
    """The worker's one event loop: connections stay open from shard to shard."""
    return context.load("event loop", asyncio.new_event_loop)


async def in_decoder(context: Context, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What a function that decodes pictures returns, run in one of the worker's few threads for that."""
    threads = context.load("decoders", lambda: ThreadPoolExecutor(DECODERS, thread_name_prefix="decoder"))
    return await asyncio.get_running_loop().run_in_executor(threads, partial(function, *args, **kwargs))


def rejected(row: Row, reason: str) -> Row:
    """The result of a row that is dropped."""
    return {"key": row["key"], "reject": reason}


def map_rows(
    function: Callable[[Row], Awaitable[T]],
    rows: Iterable[Row],
    limit: int,
    context: Context,
    failed: Callable[[Row, str], T],
) -> list[T]:
    """`map_bounded` in the worker's event loop for what passes do to their rows; one on which `function` raises ends
    alone.

    Args:
        failed: makes the result of such a row, from the row (which `function` may have emptied, but for its key) and
            the reason "failed: TYPE: ..."; `rejected` for passes whose results are rows.

    Raises:
        ManyRowsFailed: see `RowFailures`.
        Exception: what is no row's own fault.
    """
    failures = RowFailures(context)

    async def safe(row: Row) -> T:
        try:
            result = await function(row)
        except Exception as error:
            return failed(row, failures.reason(row["key"], error))
        failures.passed += 1
        return result

    results = map_bounded(safe, rows, limit, event_loop(context))
    failures.check()
    return results


def map_bounded(
    function: Callable[[Row], Awaitable[T]], rows: Iterable[Row], limit: int, loop: asyncio.AbstractEventLoop
) -> list[T]:
    """`function` of every row, at most `limit` at once, results in the order of the rows.

    A row is only read (and its picture only held) when a place is free: `limit` covers decoding and request together,
    which bounds memory. The results of a whole shard are kept, so they should be texts and numbers.

    Raises:
        Exception: the first one that `function` or `rows` raises; what is still in flight is cancelled.
    """
    try:
        return loop.run_until_complete(_map(function, rows, limit))
    except ExceptionGroup as group:
        raise group.exceptions[0] from group
    except (SystemExit, KeyboardInterrupt):
        _cancel_all(loop)
        raise


def _cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    """What is still in flight when the process is told to end; Python would print a traceback for each."""
    while tasks := asyncio.all_tasks(loop):
        for task in tasks:
            task.cancel()
        with suppress(SystemExit, KeyboardInterrupt):  # the one that is on its way comes out of its task again
            loop.run_until_complete(asyncio.wait(tasks))
        for task in tasks:
            if task.done() and not task.cancelled():
                task.exception()  # seen


async def _map(function: Callable[[Row], Awaitable[T]], rows: Iterable[Row], limit: int) -> list[T]:
    places = asyncio.Semaphore(limit)
    results: dict[int, T] = {}

    async def one(index: int, row: Row) -> None:
        try:
            results[index] = await function(row)
        finally:
            places.release()

    async with asyncio.TaskGroup() as group:
        iterator = enumerate(rows)
        while True:
            await places.acquire()
            item = next(iterator, None)
            if item is None:
                break
            group.create_task(one(*item))
            del item  # the picture belongs to its task alone
    return [results[index] for index in range(len(results))]
