"""The recipe: everything that decides what a run makes, read from YAML and checked before anything starts."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
from collections.abc import Mapping
from dataclasses import asdict, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from finecap.engine.captioners.ensemble import Budget, Captioner
from finecap.engine.captioners.prompts import SHIPPED
from finecap.engine.contract import Pass, RunPass, Settings
from finecap.engine.pipeline import PASSES
from finecap.nearest import did_you_mean
from finecap.recipe_files import find_recipe

CONFIG = ConfigDict(extra="forbid")
# Sections and fields that say how a run is carried out, not what it makes: they may change between two starts.
OPERATIONAL = {
    "in_flight",
    "threads",
    "endpoints",
    "url",
    "api_key_env",
    "timeout_s",
    "max_attempts",
    "patience_s",
    "dollars_per_million_prompt_tokens",
    "dollars_per_million_completion_tokens",
    "push_to_hub",
    "memory",
    "webdataset",
}
HASH_LENGTH = 10


@dataclass(frozen=True, config=CONFIG)
class Recipe:
    """What a run makes.

    Attributes:
        passes: options of each pass that runs, by name, in the engine's order.
        functions: functions that take the place of passes, by the name of the pass: "package.module:function".
        captioners: the ensemble; which one captions an image is drawn by weight, `seed` and the image's key.
        budget: where the run stops, whatever is left to do.
        seed: of every draw.
        rows_per_shard: images in a shard; what is lost when a worker dies.
        contents: hashes of what the recipe names and does not hold, by pass and option: the code of functions, the
            weights of detectors ("boxes.detector"). Filled in when a run begins (`with_contents`).
    """

    passes: dict[str, Any]
    functions: dict[str, str] = field(default_factory=dict)
    captioners: tuple[Captioner, ...] = ()
    budget: Budget = field(default_factory=Budget)
    seed: int = 0
    rows_per_shard: int = Field(default=1000, ge=1)
    contents: dict[str, str] = field(default_factory=dict)

    @property
    def settings(self) -> Settings:
        """What passes may know of this recipe."""
        return Settings(self.seed, self.captioners, self.budget, self.passes, self.functions)

    def enabled(self) -> tuple[Pass, ...]:
        """The passes of this recipe in order."""
        return tuple(self.resolve(step) for step in PASSES if step.name in self.passes)

    def resolve(self, step: Pass) -> Pass:
        """The pass with its parents narrowed to those of this recipe and its function replaced if the recipe says so.

        The function is imported when it is called, so the status of a run can be read without it.
        """
        step = replace(step, parents=self._parents(step))
        dotted = self.functions.get(step.name)
        return replace(step, run=lambda *arguments: function_named(dotted)(*arguments)) if dotted else step

    def _parents(self, step: Pass) -> tuple[str, ...]:
        by_name = {other.name: other for other in PASSES}
        found: list[str] = []
        for name in step.parents:
            found += [name] if name in self.passes else self._parents(by_name[name])
        return tuple(dict.fromkeys(found))

    def step(self, name: str) -> Pass:
        """The pass of this name, as this recipe runs it."""
        return next(step for step in self.enabled() if step.name == name)

    def ancestors(self, name: str) -> tuple[str, ...]:
        """All passes before this one, in order."""
        before = {name}
        for step in reversed(self.enabled()):
            if step.name in before:
                before |= set(step.parents)
        return tuple(step.name for step in self.enabled() if step.name in before - {name})

    def pass_key(self, name: str) -> str:
        """Name and hash of a pass: the name of its folder."""
        return self._pass_keys[name]

    @cached_property
    def _pass_keys(self) -> dict[str, str]:
        """Of all passes; made once, for there are as many calls as shards."""
        keys: dict[str, str] = {}
        for step in self.enabled():
            options = self.passes[step.name]
            decisive = _decisive(asdict(options))
            contents = {key: self.contents.get(f"{step.name}.{key}") for key in ("function", "detector")}
            if contents["detector"]:
                decisive.pop("detector")  # known by its content, wherever it lies
            grounds = getattr(options, "captioner", None)  # others of no weight are never asked
            asked = [asdict(one) for one in self.captioners if one.weight > 0 or one.name == grounds]
            content = {
                "pass": step.name,
                "version": step.version,
                "columns": [(column.name, str(column.type)) for column in step.columns],
                "function": self.functions.get(step.name),
                "contents": contents,
                "options": decisive,
                "parents": [keys[parent] for parent in step.parents],
                "seed": self.seed,
                "rows_per_shard": self.rows_per_shard,
                "captioners": _decisive(asked) if getattr(options, "CAPTIONS", False) else None,
            }
            digest = hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
            keys[step.name] = f"{step.name}-{digest[:HASH_LENGTH]}"
        return keys


def _decisive(value: Any) -> Any:
    """What decides the output: no operational fields, and the content of a file in place of its name."""
    if isinstance(value, Mapping):
        return {
            key: _decisive(SHIPPED if key == "prompts" and item is None else item)
            for key, item in value.items()
            if key not in OPERATIONAL
        }
    if isinstance(value, list | tuple):
        return [_decisive(item) for item in value]
    if isinstance(value, Path) and value.is_file():
        return hashlib.sha256(value.read_bytes()).hexdigest()
    return value


def function_named(dotted: str) -> RunPass:
    """The function "package.module:function".

    Raises:
        ValueError: it cannot be imported.
    """
    module, _, name = dotted.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"{dotted!r}: no such function ({error}); write it as package.module:function, and put the folder of a "
            "module that is not installed on PYTHONPATH"
        ) from error


def with_contents(recipe: Recipe) -> Recipe:
    """The recipe with the hashes of the code and the weights that it names, as they are now.

    Raises:
        ValueError: a function cannot be imported.
    """
    contents = {}
    for name, options in recipe.passes.items():
        if dotted := recipe.functions.get(name):
            contents[f"{name}.function"] = _hash_of_code(function_named(dotted))
        if detector := getattr(options, "detector", None):
            contents[f"{name}.detector"] = _hash_of_folder(Path(detector))
    return replace(recipe, contents={key: found for key, found in contents.items() if found})


def _hash_of_folder(folder: Path) -> str:
    """Of the names and contents of all files in it; "" if there are none."""
    digest, files = hashlib.sha256(), sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files:
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:HASH_LENGTH] if files else ""


def _hash_of_code(function: RunPass) -> str:
    """Hash of the module that a function is defined in, with its helpers; "" if it has no text (compiled)."""
    try:
        text = inspect.getsource(inspect.getmodule(function) or function)
    except (OSError, TypeError):
        return ""
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_LENGTH]


def load_recipe(given: str | Path) -> Recipe:
    """Read a recipe, given by its path or by the name of a shipped one. The template files and the detector that it
    names are looked for beside it, then from the current folder.

    Raises:
        ValueError: no such file, no mapping, an unknown section or key, a value of the wrong type, a pass without what
            it needs; the message names the key.
    """
    path = find_recipe(given, "finecap.engine")
    content = read_mapping(path)
    for section in content.values():
        for key in ("prompts", "detector"):
            if isinstance(section, dict) and isinstance(section.get(key), str):
                places = (path.parent / section[key], Path(section[key]))
                # Workers on other machines start in other folders.
                section[key] = next((str(place.absolute()) for place in places if place.exists()), section[key])
    return recipe_from(content, str(path))


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds.

    Raises:
        ValueError: no such file, no YAML, no mapping.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not YAML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a mapping of sections; `finevit recipes` shows some")
    return content


def recipe_from(content: Mapping[str, Any], where: str = "recipe") -> Recipe:
    """A recipe from the mapping that the YAML file holds: the fields of `Recipe` except `passes`, and one section for
    each pass. A pass that is not optional runs even without its section; `name: false` leaves an optional one out,
    `function:` inside a section names a function to run in its place.

    Raises:
        ValueError: see `load_recipe`.
    """
    known = {step.name: step for step in PASSES}
    general = {item.name for item in fields(Recipe)} - {"passes", "functions"}
    unknown = sorted(set(content) - set(known) - general)
    if unknown:
        sections = [*known, *sorted(general)]
        meant = did_you_mean(unknown[0], sections)
        raise ValueError(f"{where}: unknown section {unknown[0]!r}; known are {', '.join(sections)}{meant}")
    passes, functions = {}, {}
    for name, step in known.items():
        section = content.get(name, False if step.optional else {})
        if section is False:
            continue
        if not isinstance(section or {}, Mapping):
            raise ValueError(f"{where}: {name}: expected options, each with its name, or false")
        section = dict(section or {})
        if "function" in section:
            functions[name] = section.pop("function")
        passes[name] = _checked(step.options, section, where, name)
    rest = {key: value for key, value in content.items() if key in general}
    recipe = _checked(Recipe, {**rest, "passes": passes, "functions": functions}, where)
    asking = [
        name for name in ("recaption", "local_captions") if name in recipe.passes and name not in recipe.functions
    ]
    if asking and not any(captioner.weight > 0 for captioner in recipe.captioners):
        raise ValueError(f"{where}: {asking[0]} needs at least one captioner (of some weight) in 'captioners'")
    if recipe.budget.dollars is not None and not any(
        one.dollars_per_million_prompt_tokens or one.dollars_per_million_completion_tokens for one in recipe.captioners
    ):
        raise ValueError(
            f"{where}: budget.dollars would have no effect: no captioner has a price; give its "
            "dollars_per_million_prompt_tokens and dollars_per_million_completion_tokens, or set budget.tokens"
        )
    names = [captioner.name for captioner in recipe.captioners]
    if len(set(names)) < len(names):
        raise ValueError(f"{where}: two captioners have the same name; records tell them apart by it ({names})")
    _check_columns(recipe, where)
    return recipe


def mapping_of(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain values, every default written out; `recipe_from` makes the same recipe of it."""
    content = TypeAdapter(Recipe).dump_python(recipe, mode="json", exclude={"passes", "functions"})
    for step in PASSES:
        if step.name not in recipe.passes:
            content[step.name] = False
            continue
        content[step.name] = TypeAdapter(step.options).dump_python(recipe.passes[step.name], mode="json")
        if step.name in recipe.functions:
            content[step.name]["function"] = recipe.functions[step.name]
    return content


def _checked(kind: type, value: Mapping[str, Any], where: str, section: str | None = None) -> Any:
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in (section, *first["loc"]) if part is not None)
        raise ValueError(f"{where}: {place}: {_complaint(kind, first)}"[:700]) from None


def _complaint(kind: type, error: Any) -> str:
    """What pydantic found, in the words of a recipe."""
    if error["type"] == "unexpected_keyword_argument":
        owner: Any = {"captioners": Captioner, "budget": Budget}.get(error["loc"][0], kind)
        names = [item.name for item in fields(owner)]
        return f"no such option; known are {', '.join(names)}{did_you_mean(str(error['loc'][-1]), names)}"
    if error["type"] == "missing":
        return "is missing"
    # A check of our own says what was wrong, and may have kept a key that was written into the recipe to itself.
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    # The value may be a key as well.
    got = "" if error["loc"][:1] == ("captioners",) else f", got {error['input']!r}"
    return error["msg"].replace("valid tuple", "list") + got


def _check_columns(recipe: Recipe, where: str) -> None:
    """Every pass finds the columns it reads."""
    there = {"key", "bytes", "url"}
    for step in recipe.enabled():
        missing = [name for name in step.reads if name not in there and not name.endswith("?")]
        if missing:
            maker = next(other.name for other in PASSES if missing[0] in other.columns.names)
            raise ValueError(f"{where}: {step.name} needs the section {maker!r} (it makes the column {missing[0]!r})")
        there |= set(step.columns.names)
