# Copyright 2026 The FineViT project. Licensed under the Apache License, Version 2.0.
"""Is what a user gave a model? A folder that `save_pretrained` wrote, or an id of the Hub."""

from pathlib import Path

from finecap.hub import is_hub_id


def check_model_folder(folder: str | Path) -> None:
    """Raise a `ValueError` that says what is wrong when `folder` is neither a model folder nor a Hub id.

    See `finecap.hub.is_hub_id` for what counts as an id.
    """
    path = Path(folder)
    if path.exists() and not (path / "config.json").is_file():
        raise ValueError(f"{folder} holds no config.json; give a folder that save_pretrained wrote.")
    if not path.exists() and not is_hub_id(folder):
        there = f": the folder {path.parent} is there and holds no {path.name}" if path.parent.is_dir() else ""
        raise ValueError(f"{folder} does not exist{there}; give a model folder or a Hub id (owner/name).")
