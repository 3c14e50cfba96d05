"""Many requests at once over the rows of a shard, with bounded memory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import TypeVar

from finecap.engine.contract import Context, Row

T = TypeVar("T")


def event_loop(context: Context) -> asyncio.AbstractEventLoop:
    """The worker's one event loop: connections stay open from shard to shard."""
    return context.load("event loop", asyncio.new_event_loop)


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
