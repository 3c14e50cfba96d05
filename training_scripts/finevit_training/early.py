"""What is refused of flags and a recipe before torch and transformers are imported, which takes ten seconds and more.

The keys of a recipe are the fields of dataclasses, some of which are the Trainer's and TRL's. Their names are read
from the source text of these classes, so nothing is written down twice. Where that cannot be done, nothing is refused
here: `finevit_training.recipe` refuses the same later, in the same words.
"""

import ast
import importlib.util
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from finecap.nearest import did_you_mean
from finecap.recipe_files import find_recipe

# Classes that their packages hand on from another module.
_DEFINED_IN = {
    ("transformers", "TrainingArguments"): "transformers.training_args",
    ("trl", "SFTConfig"): "trl.trainer.sft_config",
}
_WILD = set("*?[{:")  # in patterns, in URLs and in `datasets:NAME`


def refuse_early(argv: Sequence[str], parts: str) -> None:
    """Refuses a recipe that is not there or has unknown keys, unknown flags, and data that is not on this disk.

    Args:
        argv: flags.
        parts: where the dataclasses of the stage are, as "module:NAME".

    Raises:
        ValueError: says what is wrong.
    """
    if {"-h", "--help"} & set(argv):
        return
    known = known_keys(parts)
    flags = _flags(argv)
    values: dict[str, Any] = {}
    if flags.get("recipe"):
        values = read_recipe(flags["recipe"][0])
    if known is not None:
        refuse_unknown_flags(_unknown_flags(argv, known), known)
        refuse_unknown_keys(flags.get("recipe", [""])[0], values, known)
    _refuse_missing(flags.get("data", values.get("data")), str(flags.get("split", [values.get("split", "train")])[0]))


def read_recipe(given: str | Path) -> dict[str, Any]:
    """The mapping in a recipe file, given by its path or by the name of a shipped one.

    Raises:
        ValueError: there is no such recipe, or it is no YAML mapping.
    """
    path = find_recipe(given, "finevit_training")
    try:
        values = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"recipe {path} is no YAML: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"recipe {path} must hold a mapping of keys to values, got {type(values).__name__}")
    return values


def refuse_unknown_keys(recipe: str, values: Mapping[str, Any], known: Collection[str]) -> None:
    """Raises ValueError for keys of a recipe's file that the stage does not have."""
    if unknown := sorted(set(values) - set(known), key=str):
        raise ValueError(
            f"unknown keys in the recipe {recipe}: {unknown}; see `--help` for the keys of this stage"
            f"{did_you_mean([str(one) for one in unknown], sorted(known))}"
        )


def refuse_unknown_flags(words: Sequence[str], known: Collection[str]) -> None:
    """Raises ValueError for words of a command line that the stage does not know, if there are any."""
    if words:
        wrong = [word.partition("=")[0].replace("-", "_").replace("__", "--", 1) for word in words]
        mend = did_you_mean(wrong, [f"--{name}" for name in {*known, "recipe"}])
        raise ValueError(f"unknown flags: {list(words)}; see `--help` for the flags there are{mend}")


def known_keys(parts: str) -> set[str] | None:
    """The keys of a stage's recipe, read from source text; None where a class is not found there.

    Args:
        parts: see `refuse_early`.
    """
    module, _, name = parts.partition(":")
    try:
        for node in _tree(module).body:
            if isinstance(node, ast.Assign) and [ast.unparse(one) for one in node.targets] == [name]:
                classes = [ast.unparse(one) for one in getattr(node.value, "elts", [])]
                return set().union(*(_fields(module, one) for one in classes))
    except (LookupError, OSError, SyntaxError):
        return None
    return None


def _fields(module: str, name: str) -> set[str]:
    """The annotated names of a class and of those that it stands on.

    Raises:
        LookupError: one of them is not found.
    """
    module = _DEFINED_IN.get((module, name), module)
    tree = _tree(module)
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            own = {
                item.target.id for item in node.body
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
            }  # fmt: skip
            return own.union(*(_fields(module, ast.unparse(base)) for base in node.bases))
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and name in [alias.asname or alias.name for alias in node.names]:
            above = module.split(".")[: -node.level] if node.level else []
            return _fields(".".join([*above, *filter(None, [node.module])]), name)
    raise LookupError(f"{module} has no class {name}")


def _tree(module: str) -> ast.Module:
    package, *inside = module.split(".")
    spec = importlib.util.find_spec(package)  # imports nothing
    if spec is None or not spec.submodule_search_locations:
        raise LookupError(f"no package {package}")
    path = Path(spec.submodule_search_locations[0], *inside)
    return ast.parse((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text())


def _flags(argv: Sequence[str]) -> dict[str, list[str]]:
    """The words behind each flag."""
    found: dict[str, list[str]] = {}
    name = ""
    for word in argv:
        if word.startswith("--"):
            flag, equals, value = word[2:].partition("=")
            name = flag.replace("-", "_")
            found[name] = [value] if equals else []
        elif name:
            found[name].append(word)
    return {flag: words for flag, words in found.items() if words}


def _unknown_flags(argv: Sequence[str], known: Collection[str]) -> list[str]:
    """Flags that are none, with the words behind them."""
    names = {*known, "recipe"}
    unknown: list[str] = []
    is_unknown = False
    for word in argv:
        if word.startswith("--"):
            name = word[2:].partition("=")[0].replace("-", "_")
            is_unknown = name not in names and name.removeprefix("no_") not in names
        if is_unknown:
            unknown.append(word)
    return unknown


def _refuse_missing(specs: Any, split: str) -> None:
    """Opens the sources that should be on this disk and are not, which says so."""
    missing = [one for one in specs if isinstance(one, str) and _is_missing(one)] if isinstance(specs, list) else []
    if missing:
        # Here and not above: it brings Arrow.
        from finecap.sources.door import open_sources

        open_sources(missing, split)


def _is_missing(place: str) -> bool:
    """A path that is not there; `owner/name` may be a data set of the Hub, and a word may be anything."""
    if "/" not in place or _WILD & set(place) or Path(place).exists():
        return False
    return place.startswith((".", "/")) or place.count("/") > 1 or Path(place).parent.exists()
