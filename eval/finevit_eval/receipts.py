"""What a number needs beside it to be believed and repeated: weights, code, machine, data fingerprint, settings."""

import hashlib
import json
import os
import platform
import shlex
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, Image
from transformers.utils import cached_file

from finecap.versions import cpu_name, package_versions, source_commit

PACKAGES = ("finevit", "transformers", "torch", "lmms-eval", "datasets", "accelerate", "pillow", "torchvision")
WEIGHTS = (".safetensors", ".bin")


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


def weights_hash(model: str | Path) -> str:
    """Return the SHA-256 over the names and contents of a model's weight files.

    Args:
        model: A folder, or the id of a Hub model that was loaded before.

    Raises:
        ValueError: There are no weight files.
    """
    folder = Path(model)
    if not folder.is_dir():
        config = cached_file(str(model), "config.json", local_files_only=True)
        folder = Path(str(config)).parent
    files = sorted(path for path in folder.iterdir() if path.suffix in WEIGHTS)
    if not files:
        raise ValueError(
            f"{folder} holds no weights (*.safetensors or *.bin); give a folder that save_pretrained wrote."
        )
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def make_receipt(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with versions, commit, machine, the command line and the time (UTC, ISO 8601) added."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
        "commit": source_commit(),
        "machine": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": package_versions(PACKAGES),
        **settings,
    }
