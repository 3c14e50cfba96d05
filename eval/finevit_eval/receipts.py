"""What a number needs beside it to be believed and repeated: versions, data fingerprint, prompt, settings."""

import hashlib
import json
import platform
import shlex
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from datasets import Dataset, Image

PACKAGES = ("finevit", "transformers", "torch", "lmms-eval", "datasets", "accelerate", "pillow", "torchvision")


def package_versions(packages: Iterable[str] = PACKAGES) -> dict[str, str | None]:
    """Return the installed versions, None for what is not installed, and Python's own."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return versions


def rows_fingerprint(dataset: Dataset) -> str:
    """Return the SHA-256 of the rows in their order: every column as JSON, pictures by their stored bytes.

    lmms-eval 0.7.3's own `doc_hash` and `task_hashes` hash "null" and cannot detect a change of the data.
    """
    for name, feature in dataset.features.items():
        if isinstance(feature, Image):
            dataset = dataset.cast_column(name, Image(decode=False))
    digest = hashlib.sha256()
    for row in dataset:
        digest.update(json.dumps(row, sort_keys=True, default=_bytes_digest).encode())
    return digest.hexdigest()


def _bytes_digest(value: Any) -> str:
    if not isinstance(value, bytes):
        raise TypeError(f"cannot fingerprint a value of type {type(value).__name__}")
    return hashlib.sha256(value).hexdigest()


def make_receipt(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with versions, the command line and the time (UTC, ISO 8601) added."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
        "machine": f"{platform.system()} {platform.machine()}",
        "versions": package_versions(),
        **settings,
    }
