"""Beginning a run, and finding it again from its folder on any machine."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter

from finecap.engine.recipe import Recipe, mapping_of, read_mapping, recipe_from, with_contents
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
        ValueError: the input cannot be read, holds `out`, or is not the one that the run in `out` began with. An input
            that is gone is none of these once every shard is ingested.
        StopRun: `out` cannot be written.
    """
    if out.resolve().is_relative_to(source.resolve()):
        raise ValueError(
            f"{out}: lies in the input {source}, so the next start would take its files for pictures; give an --out "
            "elsewhere"
        )
    recipe = with_contents(recipe)
    out = out.absolute()  # workers on other machines start in other folders
    known = (
        _read_plan(out / PLAN) if (out / PLAN).is_file() else {"rows_per_shard": None, "left_out": [], "shards": []}
    )
    shards = _planned(recipe, source, out, known)
    _make(out)
    recipe = _with_own_templates(recipe, out)
    _drop_old_journals(out)
    names, before = [shard.name for shard in shards], [shard["name"] for shard in known["shards"]]
    same_cut = known["rows_per_shard"] == recipe.rows_per_shard
    if same_cut and names != before:
        raise ValueError(
            f"{out}: the run in this folder began with other input ({len(set(before) - set(names))} of "
            f"{len(before)} shards are gone or changed, {len(set(names) - set(before))} are new). A run is one "
            "collection; give the new input an --out of its own."
        )
    left_out = known["left_out"] if names == before else []
    shards = _with_files_in_store(shards, Store(out))
    plan = {"rows_per_shard": recipe.rows_per_shard, "left_out": left_out, "shards": list(map(asdict, shards))}
    if json.loads(json.dumps(plan)) != known:  # an input that moved has shards of the same names elsewhere
        write_json(out / PLAN, plan)
    save_recipe(recipe, out / RECIPE)
    return Run(recipe, Store(out), tuple(shard for shard in shards if shard.name not in left_out))


def _planned(recipe: Recipe, source: Path, out: Path, known: dict[str, Any]) -> tuple[Shard, ...]:
    """The shards of the input, or, if it is gone and every picture of it is ingested, those of the run in `out`."""
    if not source.exists() and known["rows_per_shard"] == recipe.rows_per_shard:
        shards = _shards(known)
        run = Run(recipe, Store(out), shards)
        if all(run.output("ingest", shard.name).exists() for shard in shards if shard.name not in known["left_out"]):
            return shards
    return tuple(plan_shards(source, recipe.rows_per_shard))


def _with_files_in_store(shards: tuple[Shard, ...], store: Store) -> tuple[Shard, ...]:
    """The shards with the names of their pictures in a file each: a run, and each worker, holds only what is needed of
    a shard to find it.
    """
    light = []
    for shard in shards:
        if shard.kind == "folder" and not shard.in_store:
            listing = store.listing(shard.name)
            if not listing.exists():  # its name says what is in it
                write_json(listing, {"files": shard.files, "fields": shard.fields})
            shard = replace(shard, files=(), fields={}, in_store=True)
        light.append(shard)
    return tuple(light)


def load_run(out: Path, recipe_file: Path | None = None) -> Run:
    """The run in a folder.

    Args:
        recipe_file: of a job that was queued with it; the recipe of the last start by default.

    Raises:
        ValueError: there is none, a file of it is broken, or its shards were cut anew for another recipe.
    """
    recipe_file = recipe_file or out / RECIPE
    if not (out / PLAN).is_file() or not recipe_file.is_file():
        raise ValueError(f"{out}: no run of the caption engine is here ({PLAN} or {recipe_file.name} is missing)")
    out = out.absolute()
    plan = _read_plan(out / PLAN)
    content = read_mapping(recipe_file)
    for section in content.values():
        if isinstance(section, dict) and section.get("prompts"):  # the folder may have another path on this machine
            section["prompts"] = str(out / PROMPTS / Path(section["prompts"]).name)
    recipe = recipe_from(content, str(recipe_file))
    if plan["rows_per_shard"] != recipe.rows_per_shard:
        raise ValueError(
            f"{out}: its shards have {plan['rows_per_shard']} rows, and {recipe_file} wants {recipe.rows_per_shard}. "
            "The run was started with another recipe since; start it with this one again."
        )
    shards = _shards(plan)
    return Run(recipe, Store(out), tuple(shard for shard in shards if shard.name not in set(plan["left_out"])))


def left_out(out: Path) -> list[str]:
    """The shards of the run in a folder that were left out for good."""
    return _read_plan(out / PLAN)["left_out"] if (out / PLAN).is_file() else []


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Write a recipe with every default, so that `load_run` reads the same one."""
    write_text(path, yaml.safe_dump(mapping_of(recipe), sort_keys=False, allow_unicode=True))


def leave_out(run: Run, names: list[str]) -> Run:
    """The run without shards that failed for good, now and whenever it is started again. Their images are counted
    neither as records nor as rejects. Deduplication is not repeated: an image that was dropped as a duplicate of one
    in a left-out shard stays dropped, although its original is gone too.

    Raises:
        StopRun: no shard would be left.
    """
    if not {shard.name for shard in run.shards}.difference(names):
        raise StopRun(f"{run.store.out}: every shard failed, so no shard is left to continue with; remove the cause")
    plan = _read_plan(run.store.out / PLAN)
    plan["left_out"] = sorted({*plan["left_out"], *names})
    write_json(run.store.out / PLAN, plan)
    return Run(run.recipe, run.store, tuple(shard for shard in run.shards if shard.name not in set(names)))


def _make(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StopRun(f"{out}: cannot be made ({error.strerror}); give an --out that can be a folder") from error


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
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path}: cannot be read ({error}). Remove it and start the run again with the same input: what is "
            "finished or paid is kept."
        ) from error
    if not isinstance(plan, dict) or set(plan) != {"rows_per_shard", "left_out", "shards"}:
        raise ValueError(f"{path}: no plan of the caption engine; remove it and start the run again")
    return plan


def _shards(plan: dict[str, Any]) -> tuple[Shard, ...]:
    return TypeAdapter(tuple[Shard, ...]).validate_python(plan["shards"])
