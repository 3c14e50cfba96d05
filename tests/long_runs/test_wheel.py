"""The wheel as a user gets it: built from the sources, installed beside the dependencies and without the checkout, and
used from another folder.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tests.support.paths import NANO, ROOT

# Import name -> the folder that it lies in.
PACKAGES = {
    "finecap": ".",
    "modeling_finevit": ".",
    "finevit_vl": ".",
    "finevit": ".",
    "finevit_cli": "finevit",
    "finevit_training": "training_scripts",
    "finevit_eval": "eval",
}
NOT_SHIPPED = shutil.ignore_patterns(
    ".git", ".venv*", ".tools", "outputs", "build", "dist", "*.egg-info", "__pycache__", ".*_cache", "tests"
)
pytestmark = pytest.mark.slow


def sources() -> set[str]:
    """Every file of the packages, named as in the wheel."""
    found = set()
    for package, place in PACKAGES.items():
        base = ROOT / place
        for path in (base / package).rglob("*"):
            name = path.relative_to(base).as_posix()
            if path.is_file() and "__pycache__" not in name and not name.startswith("finevit/finevit_cli/"):
                found.add(name)
    return found


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> Path:
    """A fresh environment that sees the packages of this one. Of a folder that a .pth file names no further .pth files
    are read, so the editable install of the checkout is not seen.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return folder


def run(environment: Path, *command: str, cwd: Path) -> str:
    """The output of a command of the environment, which must succeed."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    path = f"{environment / 'bin'}{os.pathsep}{kept.get('PATH', '')}"
    offline = {"PATH": path, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=cwd, env=kept | offline, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy of the sources, so that nothing of an earlier build is in it, with this environment's
    setuptools.
    """
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, folder / "sources", ignore=NOT_SHIPPED)
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    command = [sys.executable, "-c", build, str(folder)]
    subprocess.run(command, cwd=folder / "sources", check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def finevit(environment, wheel, tmp_path_factory):
    """(arguments) -> output of the installed command, or of another one of the environment, in a folder far away."""
    python = str(environment / "bin" / "python")
    run(environment, python, "-m", "pip", "install", "--no-deps", "--no-index", str(wheel), cwd=environment)
    folder = tmp_path_factory.mktemp("elsewhere")

    def call(*arguments: str, program: str = "finevit") -> str:
        return run(environment, str(environment / "bin" / program), *arguments, cwd=folder)

    return call


@pytest.fixture(scope="module")
def corpus(finevit, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("corpus") / "corpus"
    finevit("corpus", "build", "--size", "20", "--out", str(out), "--workers", "1")
    return out


def test_every_file_of_the_packages_is_in_the_wheel_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name for name in names if ".dist-info/" not in name} == sources()
    needed = (
        "recipes/sft/gpu_1x.yaml",
        "recipes/caption_offline.yaml",
        "card_templates/vl.md",
        "chat_template.jinja",
        "finevit_vl/py.typed",
    )
    assert all(any(name.endswith(end) for name in names) for end in needed)


def test_what_is_imported_is_the_installed_copy(finevit, environment):
    code = f"import json, {', '.join(PACKAGES)} as last; import sys; print(json.dumps("
    code += f"[sys.modules[name].__file__ for name in {list(PACKAGES)}]))"
    files = json.loads(finevit("-c", code, program="python").splitlines()[-1])
    assert all(Path(file).is_relative_to(environment) for file in files)


def test_the_command_explains_itself_and_lists_the_recipes(finevit):
    assert "usage: finevit" in finevit("--help")
    recipes = finevit("recipes")
    assert "sft/gpu_1x" in recipes
    assert "caption_offline" in recipes
    assert finevit("recipes", "show", "sft/gpu_1x").startswith("#")


def test_a_corpus_is_built(corpus):
    assert sorted(path.name for path in (corpus / "data").iterdir())


def test_a_shipped_caption_recipe_is_priced(finevit, corpus):
    assert "20" in finevit("caption", "caption_offline", "--in", str(corpus / "data"), "--dry-run")


def test_a_model_is_evaluated(finevit, corpus, tmp_path):
    options = ("--out", str(tmp_path), "--limit", "1", "--split", "train")
    assert "easyvqa" in finevit("eval", "easyvqa", "--model", str(NANO), "--data", str(corpus), *options)
    receipt = json.loads((tmp_path / "results.json").read_text())["receipt"]
    assert receipt["commit"] is None
    assert receipt["weights"]


def test_lmms_eval_finds_the_plugin(finevit):
    code = "from lmms_eval import models; print(models.get_model('finevit_vl').__module__)"
    assert finevit("-c", code, program="python").splitlines()[-1] == "finevit_eval.questions.adapter"


def test_a_model_is_trained_by_the_name_of_its_recipe(finevit, corpus, tmp_path):
    launch = ("-m", "accelerate.commands.launch", "--num_processes", "1", "--cpu", "-m", "finevit_training.vl_sft")
    options = ("--model", str(NANO), "--data", str(corpus), "--output_dir", str(tmp_path / "model"))
    short = ("--max_minutes", "0.02", "--per_device_train_batch_size", "2", "--bf16", "false")
    finevit(*launch, "--recipe", "sft/nano_cpu", *options, *short, program="python")
    assert (tmp_path / "model" / "model.safetensors").is_file()
    assert "FineViT-VL" in (tmp_path / "model" / "README.md").read_text()
