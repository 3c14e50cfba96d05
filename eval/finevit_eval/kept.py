"""What an evaluation found out so far, on disk: an interrupted run goes on at the sample where it stopped."""

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

KEPT_FILE = "kept.sqlite"
"""One folder's, removed when its results are written: who measures again measures anew."""


class Kept:
    """Bytes by their keys in one file; what was put there survives a kill at any moment.

    Use it as a context manager. What was kept under other conditions is not seen: several runners share the file.

    Args:
        path: The file; made where there is none.
        conditions: All that the results depend on besides what a key names: hash of the weights, settings, versions.
            JSON values.
    """

    def __init__(self, path: Path, conditions: Mapping[str, Any]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._database = _opened(path)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):  # it is in use, or cannot be written
                raise
            path.unlink()  # damaged; what it held is found again
            self._database = _opened(path)
        self._digest = hashlib.sha256(json.dumps(conditions, sort_keys=True, default=str).encode()).hexdigest()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()

    def get(self, keys: Iterable[str]) -> dict[str, bytes]:
        """What is kept of some keys."""
        query = "SELECT key, value FROM kept WHERE key = ? AND digest = ?"
        asked = (self._database.execute(query, (key, self._digest)) for key in keys)
        return {key: value for rows in asked for key, value in rows}

    def put(self, found: Mapping[str, bytes]) -> None:
        """Keeps all of these or, where the process dies meanwhile, none."""
        rows = [(key, value, self._digest) for key, value in found.items()]
        with self._database as database:
            database.executemany("INSERT OR REPLACE INTO kept VALUES (?, ?, ?)", rows)


def _opened(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path)
    with database:
        database.execute(
            "CREATE TABLE IF NOT EXISTS kept (key TEXT, value BLOB, digest TEXT, PRIMARY KEY (key, digest))"
        )
    return database
