"""Beginning a run, and finding it again from its folder on any machine."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter

from finecap.engine.recipe import Recipe, function_named, mapping_of, read_mapping, recipe_from
from finecap.engine.running.one_shard import Run
from finecap.engine.running.store import Store
from finecap.errors import StopRun
from finecap.files import write_json, write_text
from finecap.shards.plan import Shard, plan_shards

PLAN, RECIPE, PROMPTS = "plan.json", "recipe.yaml", "prompts"


def open_run(recipe: Recipe, source: Path, out: Path) -> Run:
    """Begin a run, or go on with the one in `out`: write its recipe and the plan of its shards.

    A run is one collection: what is dropped as a duplicate, and what is sampled, depends on all of it.

    Raises:
        ValueError: the input cannot be read, holds `out`, or is not the one that the run in `out` began with.
        StopRun: `out` cannot be written.
    """
    if out.resolve().is_relative_to(source.resolve()):
        raise ValueError(
            f"{out}: lies in the input {source}, so the next start would take its files for pictures; give an --out "
            "elsewhere"
        )
    for dotted in recipe.functions.values():
        function_named(dotted)
    shards = tuple(plan_shards(source, recipe.rows_per_shard))
    out = out.absolute()  # workers on other machines start in other folders
    _make(out)
    recipe = _with_own_templates(recipe, out)
    _drop_old_journals(out)
    plan = out / PLAN
    known = _read_plan(plan) if plan.is_file() else {"rows_per_shard": None, "left_out": [], "shards": []}
    names, before = [shard.name for shard in shards], [shard["name"] for shard in known["shards"]]
    same_cut = known["rows_per_shard"] == recipe.rows_per_shard
    if same_cut and names != before:
        raise ValueError(
            f"{out}: the run in this folder began with other input ({len(set(before) - set(names))} of "
            f"{len(before)} shards are gone or changed, {len(set(names) - set(before))} are new). A run is one "
            "collection; give the new input an --out of its own."
        )
    left_out = known["left_out"] if names == before else []
    if not same_cut:
        _write_plan(plan, recipe, shards, left_out)
    write_text(out / RECIPE, _yaml(recipe))
    return Run(recipe, Store(out), tuple(shard for shard in shards if shard.name not in left_out))


def load_run(out: Path) -> Run:
    """The run in a folder.

    Raises:
        ValueError: there is none.
    """
    if not (out / PLAN).is_file() or not (out / RECIPE).is_file():
        raise ValueError(f"{out}: no run of the caption engine is here ({PLAN} or {RECIPE} is missing)")
    out = out.absolute()
    plan = _read_plan(out / PLAN)
    left_out = set(plan["left_out"])
    shards = TypeAdapter(tuple[Shard, ...]).validate_python(plan["shards"])
    content = read_mapping(out / RECIPE)
    for section in content.values():
        if isinstance(section, dict) and section.get("prompts"):  # the folder may have another path on this machine
            section["prompts"] = str(out / PROMPTS / Path(section["prompts"]).name)
    recipe = recipe_from(content, str(out / RECIPE))
    return Run(recipe, Store(out), tuple(shard for shard in shards if shard.name not in left_out))


def leave_out(run: Run, names: list[str]) -> Run:
    """The run without shards that failed for good, now and whenever it is started again; their images are in neither
    the records nor the rejects. What an earlier look at the whole collection saw of them stays: a picture that was
    dropped as the duplicate of one of theirs stays dropped.

    Raises:
        StopRun: no shard would be left.
    """
    if not {shard.name for shard in run.shards}.difference(names):
        raise StopRun(f"{run.store.out}: every shard failed, so there is nothing to go on with; mend the cause")
    plan = _read_plan(run.store.out / PLAN)
    plan["left_out"] = sorted({*plan["left_out"], *names})
    write_json(run.store.out / PLAN, plan)
    return Run(run.recipe, run.store, tuple(shard for shard in run.shards if shard.name not in set(names)))


def _make(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StopRun(
            f"{out}: cannot be made ({error.strerror}); give an --out that can be a folder, or mend what is in its way"
        ) from error


def _with_own_templates(recipe: Recipe, out: Path) -> Recipe:
    """The recipe with its template files copied into the run's folder: it goes on with them from any place, and who
    edits the originals meanwhile does not mix two wordings in one output.
    """
    passes = dict(recipe.passes)
    for name, options in passes.items():
        if (path := getattr(options, "prompts", None)) is not None:
            text = path.read_text(encoding="utf-8")
            copy = out / PROMPTS / f"{hashlib.sha256(text.encode()).hexdigest()[:10]}.yaml"
            write_text(copy, text)
            passes[name] = replace(options, prompts=copy)
    return replace(recipe, passes=passes)


def _drop_old_journals(out: Path) -> None:
    """A run that died between the commit of a shard and the removal of its journal left one that nobody needs."""
    for journal in (out / "passes").glob("*/*.journal.jsonl"):
        if journal.with_name(journal.name.replace(".journal.jsonl", ".parquet")).exists():
            journal.unlink(missing_ok=True)


def _read_plan(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _write_plan(path: Path, recipe: Recipe, shards: tuple[Shard, ...], left_out: list[str]) -> None:
    write_json(
        path,
        {"rows_per_shard": recipe.rows_per_shard, "left_out": left_out, "shards": [asdict(shard) for shard in shards]},
    )


def _yaml(recipe: Recipe) -> str:
    return yaml.safe_dump(mapping_of(recipe), sort_keys=False, allow_unicode=True)
