"""What a number needs beside it to be believed and repeated: code, machine, settings, and a hash of the data."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset, Image
from transformers.utils import cached_file

from finecap.made_with import made_with
from finecap.recipe_files import without_folders

PACKAGES = ("finevit", "transformers", "torch", "lmms-eval", "datasets", "accelerate", "pillow", "torchvision")


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


def local_folder(model: str | Path) -> Path:
    """The folder of a model: `model` itself, or the copy of a Hub model that was loaded before."""
    if Path(model).is_dir():
        return Path(model)
    return Path(str(cached_file(str(model), "config.json", local_files_only=True))).parent


def samples_seen(folder: Path) -> dict[str, int]:
    """`{"samples": number}` that a model was trained on, from the receipt in its folder or the Trainer's state in a
    checkpoint; empty of a model that says nothing of it.
    """
    if (folder / "receipt.json").is_file():
        trained = json.loads((folder / "receipt.json").read_text("utf-8")).get("trained") or {}
        return {"samples": trained["samples"]} if "samples" in trained else {}
    if (folder / "trainer_state.json").is_file():
        log = json.loads((folder / "trainer_state.json").read_text("utf-8"))["log_history"]
        return next(({"samples": entry["samples_seen"]} for entry in reversed(log) if "samples_seen" in entry), {})
    return {}


def make_receipt(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings behind what `finecap.made_with` tells of command, code and machine.

    Of a path on this machine the last part alone is kept: weights and questions count by their hashes.
    """
    return without_folders({**made_with(PACKAGES), **settings})
