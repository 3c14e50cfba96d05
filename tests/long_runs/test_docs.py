"""The commands of the pages, run by a new user in an empty folder, with smaller numbers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

from tests.support.paths import NANO, ROOT

pytestmark = pytest.mark.slow
BIN = Path(sys.executable).parent


def run(folder: Path, *words: object) -> str:
    """Standard output of a command that must succeed."""
    command = [str(BIN / str(words[0])), *map(str, words[1:])]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("user")


def test_corpus_training_evaluation_report_and_questions(folder):
    """docs/train.md and docs/evaluate.md, then README's two questions."""
    run(folder, "finevit", "corpus", "build", "--out", "outputs/corpus", "--size", 200, "--difficulty", "nano")
    launch = ["accelerate", "launch", "--num_processes", "1", ROOT / "training_scripts" / "vl_sft.py"]
    recipe = yaml.safe_load(run(folder, "finevit", "recipes", "show", "sft/nano_cpu"))
    del recipe["max_minutes"]
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    run(folder, *launch, "--recipe", "recipe.yaml", "--model", NANO, "--data", "outputs/corpus", "--max_steps", 3)
    evaluate = ["finevit", "eval", "outputs/nano", "--data", "outputs/corpus", "--limit", 4, "--tasks", "doc", "chart"]
    run(folder, *evaluate, "--out", "outputs/eval")
    run(folder, *evaluate, "--out", "outputs/blind", "--blind")
    run(folder, "finevit", "report", "outputs/eval", "outputs/blind", "--out", "outputs/report.html")
    assert "<svg" in (folder / "outputs" / "report.html").read_text()
    Image.new("RGB", (112, 84), "white").save(folder / "picture.png")
    assert run(folder, "finevit", "ask", "outputs/nano", "picture.png", "What is the total?").strip()


def test_a_price_before_anything_is_paid(folder):
    """docs/caption.md."""
    (folder / "photos").mkdir()
    Image.new("RGB", (600, 500), "white").save(folder / "photos" / "a.png")
    caption = ["finevit", "caption", "caption_full", "--in", "photos", "--out", "outputs/captions", "--dry-run"]
    assert "requests" in run(folder, *caption)
    assert not (folder / "outputs" / "captions").exists()
