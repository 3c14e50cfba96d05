"""Recipes: everything that decides a training run, read from one YAML file and command-line flags.

A recipe is a flat mapping; its keys are the fields of the three dataclasses of its stage, the last of which are the
Trainer's (so every option of the Trainer is one). Flags win over the file. What was asked for is kept apart from
what this machine made of it: a finished run leaves the first in recipe.yaml, which runs on any machine, and the second
in receipt.json.
"""

import argparse
import dataclasses
import math
import types
import typing
from collections.abc import Mapping, Sequence
from enum import Enum
from types import NoneType
from typing import Any, NamedTuple

from transformers import HfArgumentParser

from finecap.recipe_files import without_secrets
from finevit_training.early import read_recipe, refuse_unknown_flags, refuse_unknown_keys
from finevit_training.refused import refuse_options
from finevit_training.stages.sft.arguments import SFT_PARTS

# Dataclasses of a stage: its model, its data, its training.
Parts = tuple[Any, Any, Any]
_NOT_GIVEN: Any = object()
# What says where this process goes on from belongs to a command, not to the recipe; a token belongs to nobody else.
NOT_IN_RECIPES = ("resume_from_checkpoint", "dry_run", "hub_token")
_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", list: "a list"}
_OR_BOOL = ("bf16", "compile_blocks", "resume_from_checkpoint", "fsdp")  # texts that are words of YAML, too


class Recipe(NamedTuple):
    """A parsed recipe.

    Attributes:
        model, data, training: every key, as this machine resolves it, in the dataclasses of its stage.
        asked: the keys of the file and of the flags with the values that they were given.
    """

    model: Any
    data: Any
    training: Any
    asked: dict[str, Any]


# A flag that says what ends the run, and keys of a recipe that say something else: flags win.
ENDS_OTHERWISE = {
    "max_steps": ("num_train_epochs",),
    "max_minutes": ("num_train_epochs",),
    "num_train_epochs": ("max_steps", "max_minutes"),
}


def parse_recipe(argv: Sequence[str], parts: Parts = SFT_PARTS) -> Recipe:
    """Reads `--recipe FILE.yaml` (or the name of a shipped recipe) and flags.

    Args:
        parts: the dataclasses of the stage; those of supervised fine-tuning without it.

    Raises:
        ValueError: an unknown key, in the file or among the flags, a value that does not fit, or an option that would
            have no effect.
    """
    fields = {item.name: item for part in parts for item in dataclasses.fields(part) if item.init}
    parser = HfArgumentParser(parts, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--recipe", default=argparse.SUPPRESS, help="A YAML file, or the name of a shipped recipe.")
    if not {"-h", "--help"} & set(argv):  # which prints the defaults
        parser.set_defaults(**dict.fromkeys(fields, _NOT_GIVEN))
    flags = _parse(parser, argv)
    if "recipe" in flags:
        values = read_recipe(flags["recipe"])
        refuse_unknown_keys(flags["recipe"], values, fields)
        for name in ("eval_strategy", "save_strategy", "logging_strategy"):
            if values.get(name) is False:
                values[name] = "no"  # what it is in YAML
        _check_kinds(values, parts)
        for name, idle in ENDS_OTHERWISE.items():
            if name in flags:
                values = {key: value for key, value in values.items() if key not in idle}
        # The parser gives strings of the file the types that flags have: YAML reads 1e-4 as a string.
        parser.set_defaults(**values)
        flags = _parse(parser, argv)
    asked = {name: value for name, value in flags.items() if name != "recipe"}
    defaults = {name: _default(item) for name, item in fields.items()}
    refuse_options(asked, defaults)
    built = [
        part(**{item.name: asked[item.name] for item in dataclasses.fields(part) if item.name in asked})
        for part in parts
    ]
    for part in built[:2]:  # what flags give as JSON, as the file would hold it
        read = {name: value for name, value in vars(part).items() if isinstance(value, dict | list)}
        asked |= {name: value for name, value in read.items() if name in asked}
    if "bf16" in asked and str(asked["bf16"]).lower() != "auto":
        asked["bf16"] = built[2].bf16
    order = list(fields)
    return Recipe(*built, dict(sorted(asked.items(), key=lambda pair: order.index(pair[0]))))


def _parse(parser: HfArgumentParser, argv: Sequence[str]) -> dict[str, Any]:
    try:
        flags, rest = parser.parse_known_args(list(argv))
    except argparse.ArgumentError as error:
        raise ValueError(f"{error}; see `--help` for the flags there are") from error
    refuse_unknown_flags(rest, vars(flags))
    return {name: value for name, value in vars(flags).items() if value is not _NOT_GIVEN}


def asked_recipe(recipe: Recipe) -> dict[str, Any]:
    """What was asked for, as a flat mapping that `parse_recipe` reads back on any machine. Links are without what
    opens them, because finished folders are published.
    """
    return without_secrets({name: value for name, value in recipe.asked.items() if name not in NOT_IN_RECIPES})


def resolved_recipe(recipe: Recipe) -> dict[str, Any]:
    """What this machine made of it, in values of JSON: every field of the recipe, because defaults change."""
    values: dict[str, Any] = {}
    for part in (recipe.model, recipe.data, recipe.training):
        for item in dataclasses.fields(part):
            if item.init and item.name not in NOT_IN_RECIPES:
                values[item.name] = _plain(getattr(part, item.name))
    return values


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, Enum):
        return value.value
    return value if isinstance(value, bool | int | float | str | None) else str(value)


def _default(item: dataclasses.Field) -> Any:
    return item.default if item.default_factory is dataclasses.MISSING else item.default_factory()


def _check_kinds(values: Mapping[str, Any], parts: Parts) -> None:
    """Refuses values of a recipe's file that are of no kind that their key takes. Texts are left to the parser, which
    reads them as it reads flags, and mappings to the keys that take them.
    """
    hints = {name: hint for part in parts for name, hint in typing.get_type_hints(part).items()}
    for name, value in values.items():
        kinds = _kinds(hints[name])
        if isinstance(value, str):
            if list in kinds and str not in kinds:
                raise ValueError(f"{name} is the text {value!r} in the recipe; expected a list: {name}: [{value}]")
            continue
        known = [kind for kind in kinds if kind in _KINDS]
        is_free = not known or {dict, typing.Literal} & set(kinds) or (isinstance(value, bool) and name in _OR_BOOL)
        if not (is_free or (value is None and NoneType in kinds) or any(_is_one(value, kind) for kind in known)):
            expected = " or ".join(_KINDS[kind] for kind in known)
            raise ValueError(f"{name} is {value!r} in the recipe; expected {expected}, or leave it out")


def _kinds(hint: Any) -> list[Any]:
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return [typing.get_origin(kind) or kind for kind in (typing.get_args(hint) if union else (hint,))]


def _is_one(value: Any, kind: Any) -> bool:
    if kind is float:
        return type(value) in (int, float) and not math.isnan(value)
    return type(value) is kind  # true is no number
