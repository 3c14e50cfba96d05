# Copyright 2026 The FineViT project. Licensed under the Apache License, Version 2.0.
"""Is what a user gave a model? A folder that `save_pretrained` wrote, or an id of the Hub."""

from pathlib import Path


def check_model_folder(folder: str | Path) -> None:
    """Raise a `ValueError` that says what is wrong when `folder` is neither a model folder nor a Hub id.

    What reads like a Hub id and begins with a folder that is there (`outputs/demoo`) is a mistyped folder.
    """
    path = Path(folder)
    if path.exists() and not (path / "config.json").is_file():
        raise ValueError(f"{folder} holds no config.json; give a folder that save_pretrained wrote.")
    if not path.exists() and (path.is_absolute() or len(path.parts) != 2):
        raise ValueError(f"{folder} does not exist; give a model folder or a Hub id (owner/name).")
    if not path.exists() and path.parent.is_dir():
        raise ValueError(f"{folder} does not exist: the folder {path.parent} is there and holds no {path.name}.")
