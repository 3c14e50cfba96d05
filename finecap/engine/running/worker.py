"""A worker process of the local executor, started as `python -m finecap.engine.running.worker PIPE LIFELINE`.

A program of its own, and not a spawned copy of the supervisor's, which may be one that imports torch: workers start in
half a second and hold what their passes load.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from multiprocessing.connection import Connection
from typing import Any

from finecap.engine.running.scheduler import attempt


def work(pipe: Connection) -> None:
    """Receive the run, then do tasks until the supervisor closes the pipe."""
    models: dict[str, Any] = {}
    try:
        run = pipe.recv()
        while True:
            task = pipe.recv()
            pipe.send(attempt(run, task, models))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def _end_with_supervisor(lifeline: int) -> None:
    os.read(lifeline, 1)  # nothing is ever written: this returns when the other end is closed, by death or in order
    os._exit(1)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor decides, and ends us with SIGTERM
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what is half-written is removed
    threading.Thread(target=_end_with_supervisor, args=(int(sys.argv[2]),), daemon=True).start()
    work(Connection(int(sys.argv[1])))


if __name__ == "__main__":
    main()
