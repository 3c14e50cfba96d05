"""Every paid answer of one pass over one shard, kept until the shard is committed, so that a crash pays nothing twice
but what was in flight.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class Journal:
    """Append-only JSON lines beside the shard's output; a last line torn by a crash is ignored.

    One answer is one `write` to a file opened for appending, so it survives the death of the process. It is not synced
    to the disk line by line: a power cut may lose the last seconds.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._answers: dict[str, Any] = {}
        self._file: int | None = None
        if path.exists():
            self._read()

    def _read(self) -> None:
        for line in self.path.read_bytes().splitlines():
            try:
                entry = json.loads(line)
                self._answers[entry["key"]] = entry["answer"]
            except (ValueError, KeyError, TypeError):  # torn by a crash
                continue

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, key: str) -> Any | None:
        """The answer under `key`, or None."""
        return self._answers.get(key)

    def put(self, key: str, answer: Any) -> None:
        """Keep an answer (anything JSON can hold)."""
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            # A line break first: the line before may be torn.
            os.write(self._file, b"\n")
        line = json.dumps({"key": key, "answer": answer}, ensure_ascii=False).encode() + b"\n"
        written = os.write(self._file, line)
        if written != len(line):
            raise OSError(28, "the disk is full: a paid answer could not be kept", str(self.path))
        self._answers[key] = answer

    def close(self) -> None:
        """Close the file; the answers stay on the disk."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def drop(self) -> None:
        """Remove the file, once the shard is committed."""
        self.close()
        self.path.unlink(missing_ok=True)
