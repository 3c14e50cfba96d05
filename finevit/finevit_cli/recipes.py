"""`finevit recipes`: the recipes inside the installed packages, listed, shown and copied."""

import argparse
from pathlib import Path

import yaml

from finecap.files import write_text
from finecap.nearest import did_you_mean
from finecap.recipe_files import shipped_recipes

PACKAGES = {
    "finecap.engine": "finevit caption NAME --in IMAGES --out DIR",
    "finevit_training": "accelerate launch -m finevit_training.{script} --recipe NAME",
}
"""Package -> how a recipe of it is used."""
SCRIPTS = {"sft": "vl_sft"}
"""Folder of training recipes -> the script that takes them, where it has another name."""
LAUNCH = "accelerate launch --config_file FILE (a file that `finevit recipes copy NAME` wrote)"
PROMPTS = "prompts that a caption recipe names, copied with it"


def add_recipes(commands: argparse._SubParsersAction) -> None:
    """Add the command to the command line."""
    command = commands.add_parser("recipes", help="list, show or copy the recipes that ship with the packages")
    command.set_defaults(run=lambda arguments: print(listing()))
    actions = command.add_subparsers(metavar="show | copy")
    show = actions.add_parser("show", help="print a recipe")
    show.add_argument("name", help="as `finevit recipes` lists it")
    show.set_defaults(run=lambda arguments: print(find(arguments.name).read_text(encoding="utf-8"), end=""))
    copy = actions.add_parser("copy", help="write a recipe to a file, to change it there")
    copy.add_argument("name", help="as `finevit recipes` lists it")
    copy.add_argument("--out", type=Path, help="the file; by default the name's last part in this folder")
    copy.set_defaults(run=_copy)


def listing() -> str:
    """Every recipe by the name that its command takes, with the first line of its comment."""
    groups: dict[str, dict[str, Path]] = {}
    for package, use in PACKAGES.items():
        for name, path in shipped_recipes(package).items():
            folder = name.partition("/")[0]
            command = use.format(script=SCRIPTS.get(folder, folder))
            kind = LAUNCH if folder == "accelerate" else PROMPTS if name.endswith("_prompts") else command
            groups.setdefault(kind, {})[name] = path
    lines = []
    for use, recipes in groups.items():
        lines.append(f"{use}:")
        lines += [f"  {name:<22} {_first_comment(path)}".rstrip() for name, path in recipes.items()]
    return "\n".join(lines)


def find(name: str) -> Path:
    """The file of a shipped recipe.

    Raises:
        ValueError: There is none of that name; says which there are.
    """
    shipped = {name: path for package in PACKAGES for name, path in shipped_recipes(package).items()}
    if name not in shipped:
        raise ValueError(f"there is no recipe {name}; there are: {', '.join(shipped)}{did_you_mean(name, shipped)}")
    return shipped[name]


def _copy(arguments: argparse.Namespace) -> None:
    source = find(arguments.name)
    out = arguments.out or Path(source.name)
    files = {out: source} | {out.with_name(prompts.name): prompts for prompts in _prompts(source)}
    if there := [str(path) for path in files if path.exists()]:
        raise ValueError(f"{', '.join(there)} exists; give a file in another folder with --out")
    for path, original in files.items():
        write_text(path, original.read_text(encoding="utf-8"))
        print(path)


def _prompts(recipe: Path) -> set[Path]:
    """The files of prompts beside a recipe that its sections name."""
    sections = yaml.safe_load(recipe.read_text(encoding="utf-8")).values()
    named = {section["prompts"] for section in sections if isinstance(section, dict) and section.get("prompts")}
    return {recipe.with_name(name) for name in named if recipe.with_name(name).is_file()}


def _first_comment(path: Path) -> str:
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""
