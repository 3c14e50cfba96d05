"""Recipes that ship inside the packages (a recipe is the path of a YAML file, or the name of a shipped one), and what
of one strangers may read.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from finecap.nearest import did_you_mean


def shipped_recipes(package: str) -> dict[str, Path]:
    """The YAML files in the folder `recipes` of an installed package, by name: "sft/nano_cpu" is
    recipes/sft/nano_cpu.yaml.
    """
    folder = Path(str(files(package))) / "recipes"
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in sorted(folder.rglob("*.yaml"))}


def find_recipe(given: str | Path, package: str) -> Path:
    """The file of a recipe that is given by path or by the name of a shipped one; a path wins.

    Raises:
        ValueError: there is neither; says which names there are.
    """
    path = Path(given)
    if path.is_file():
        return path
    shipped = shipped_recipes(package)
    if str(given) in shipped:
        return shipped[str(given)]
    raise ValueError(
        f"recipe {given} does not exist; give the path of a YAML file or one of: {', '.join(shipped)}"
        f"{did_you_mean(str(given), shipped)}"
    )


def without_folders(value: Any) -> Any:
    """A recipe, or a part of it, for strangers: of a path on this machine its last part alone."""
    if isinstance(value, Mapping):
        return {key: without_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_folders(item) for item in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value
