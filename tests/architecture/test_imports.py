"""The house: where packages lie, which way imports point, and what they load. Lazy imports and those under
TYPE_CHECKING count as well.
"""

import ast
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from tests.support.paths import ROOT

# Import name -> the folder that its package lies in.
PLACES = {
    "finecap": ".",
    "modeling_finevit": ".",
    "finevit_vl": ".",
    "finevit_training": "training_scripts",
    "finevit_eval": "eval",
    "finevit": ".",
    "finevit_cli": "finevit",
}
# What each package may import of ours.
BELOW = {
    "finecap": set(),
    "modeling_finevit": set(),
    "finevit_vl": {"finecap", "modeling_finevit"},
    "finevit_training": {"finecap", "modeling_finevit", "finevit_vl"},
    "finevit_eval": {"finecap", "modeling_finevit", "finevit_vl"},
    "finevit": {"finecap", "modeling_finevit", "finevit_vl", "finevit_training", "finevit_eval"},
    "finevit_cli": {"finecap", "modeling_finevit", "finevit_vl", "finevit_training", "finevit_eval", "finevit"},
}
MOST_MODULES = 15
# Modules of one name in several folders are of one kind: "card" writes a card, wherever it is.
SAME_KIND = {"boxes", "conversation", "card", "gallery", "recipe", "build", "plan", "reader", "facts", "run"}
SAME_KIND |= {"stage", "arguments", "trainer", "model", "drawing"}


def modules() -> dict[str, Path]:
    """Every module of the house by its dotted name; a package stands for its `__init__`."""
    found = {}
    for package, place in PLACES.items():
        base = ROOT / place
        for path in sorted((base / package).rglob("*.py")):
            name = ".".join(path.relative_to(base).with_suffix("").parts).removesuffix(".__init__")
            if not name.startswith("finevit.finevit_cli"):
                found[name] = path
    return found


def imported(name: str, path: Path, known: dict[str, Path]) -> set[str]:
    """The modules of the house that the module `name` imports anywhere in its text."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            source = ".".join(part for part in (base, node.module) if part)
            # `from package import name` imports the module package.name if there is one, else the package itself.
            found |= {full if (full := f"{source}.{alias.name}") in known else source for alias in node.names}
    return {other for other in found if other in known and other != name}


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    known = modules()
    return {name: imported(name, path, known) for name, path in known.items()}


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Groups of modules that reach each other (Tarjan's strongly connected components of more than one member)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in sorted(graph[name]):
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            group = set()
            while not group or name not in group:
                group.add(stack.pop())
            if len(group) > 1:
                found.append(group)

    for name in sorted(graph):
        if name not in index:
            visit(name)
    return found


def test_circles_are_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [{"a", "b", "c"}]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_no_module_imports_itself_by_a_detour(graph):
    assert circles(graph) == []


def test_imports_point_down(graph):
    up = [
        f"{name} imports {other}"
        for name, others in graph.items()
        for other in others
        if (mine := name.split(".")[0]) != (theirs := other.split(".")[0]) and theirs not in BELOW[mine]
    ]
    assert up == []


def test_every_package_imports_something_so_that_the_graph_is_one(graph):
    edges = sum(len(others) for others in graph.values())
    assert edges > len(graph)
    assert all(any(graph[name] for name in graph if name.split(".")[0] == package) for package in PLACES)


def test_no_folder_is_a_crowd():
    by_folder = defaultdict(list)
    for path in modules().values():
        if path.name not in ("__init__.py", "__main__.py"):
            by_folder[path.parent].append(path.name)
    assert {str(folder): len(names) for folder, names in by_folder.items() if len(names) > MOST_MODULES} == {}


def test_modules_of_one_name_are_of_one_kind():
    by_name = defaultdict(list)
    for name, path in modules().items():
        if path.name not in ("__init__.py", "__main__.py"):
            by_name[path.stem].append(name)
    assert {stem: names for stem, names in by_name.items() if len(names) > 1 and stem not in SAME_KIND} == {}


@pytest.mark.parametrize(
    "module", ["finecap", "finecap.records", "finecap.engine.command", "finecap.engine.pipeline", "finevit_cli"]
)
def test_data_loads_no_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
