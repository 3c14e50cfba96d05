"""Recipes that ship inside the packages (a recipe is the path of a YAML file, or the name of a shipped one), and what
of one strangers may read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
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
    """A recipe, or a part of it, for strangers: of a path on this machine its last part alone, and no secrets."""
    return _each_text(value, lambda text: Path(text).name if Path(text).is_absolute() else _without_secrets(text))


def without_secrets(value: Any) -> Any:
    """A recipe, or a part of it, whose web links have neither name and password nor what stands behind the "?", which
    is a signature where there is one.
    """
    return _each_text(value, _without_secrets)


def _without_secrets(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        return text
    scheme, _, rest = re.sub(r"[?#].*", "", text, flags=re.DOTALL).partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def _each_text(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, Mapping):
        return {key: _each_text(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [_each_text(item, change) for item in value]
    return change(value) if isinstance(value, str) else value
